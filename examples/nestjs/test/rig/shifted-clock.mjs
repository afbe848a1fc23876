/** `node --import` this: the clock of the process is `CLOCK_SHIFT_SECONDS` ahead (or behind, below 0). */

const RealDate = Date;
const shift = 1_000 * Number(process.env.CLOCK_SHIFT_SECONDS);

globalThis.Date = class extends RealDate {
  constructor(...given) {
    super(...(given.length > 0 ? given : [RealDate.now() + shift]));
  }

  static now() {
    return RealDate.now() + shift;
  }
};
