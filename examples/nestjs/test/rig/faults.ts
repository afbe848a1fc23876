/** Makes some of the requests to the tasks fail, as networks, proxies and overloaded servers do. */

import type { NextFunction, Request, RequestHandler, Response } from 'express';

type Meet = (request: Request, response: Response, next: NextFunction) => void;

const SLOW_MS = 400;

/** What can go wrong; `After`: the request has had its effect. */
const FAULTS = {
  error: (_, response) =>
    void response
      .status(500)
      .json({ statusCode: 500, message: 'out of order' }),
  errorAfter: (_, response, next) => {
    answeredWith(response, () => response.writeHead(502).end());
    next();
  },
  throttle: (_, response) =>
    void response
      .status(429)
      .setHeader('Retry-After', '1')
      .json({ statusCode: 429 }),
  drop: (request) => void request.socket.destroy(),
  dropAfter: (request, response, next) => {
    answeredWith(response, () => request.socket.destroy());
    next();
  },
  slow: (_, __, next) => void setTimeout(next, SLOW_MS),
} satisfies Record<string, Meet>;

export type Fault = keyof typeof FAULTS;

/** After a 429 nobody sends anything for a second, so it is the rarest. */
const OFTEN: Fault[] = ['error', 'drop', 'errorAfter', 'dropAfter'];
const IN_TURN: Fault[] = [...OFTEN, 'slow', ...OFTEN, 'throttle'];

/** The tasks of a claim whose answer is lost lie until their lease ends: only those do that are meant to. */
const OF_CLAIMS: Partial<Record<Fault, Fault>> = {
  errorAfter: 'error',
  dropAfter: 'drop',
};

/** One fault for every so many requests; and the answers of the first claims are lost, as many as `lostClaims`. */
export class Faults {
  private requests = 0;

  constructor(
    private readonly every: number,
    private lostClaims: number,
    private readonly onFault: (name: Fault) => void,
  ) {}

  async next(ofClaim: boolean): Promise<Fault | null> {
    const fault = this.drawn(ofClaim);
    if (fault !== null) {
      this.onFault(fault);
    }
    return fault;
  }

  private drawn(ofClaim: boolean): Fault | null {
    if (ofClaim && this.lostClaims > 0) {
      this.lostClaims -= 1;
      return 'dropAfter';
    }
    this.requests += 1;
    if (this.requests % this.every !== 0) {
      return null;
    }
    const fault = IN_TURN[(this.requests / this.every) % IN_TURN.length]!;
    return (ofClaim && OF_CLAIMS[fault]) || fault;
  }
}

export function faulty(faults: Faults): RequestHandler {
  return async (request, response, next) => {
    const ofTasks = request.path.startsWith('/api/ai-tasks');
    const fault = ofTasks
      ? await faults.next(request.path.endsWith('/claim'))
      : null;
    if (fault === null) {
      next();
    } else {
      FAULTS[fault](request, response, next);
    }
  };
}

/** Does `instead` at the moment at which the answer would leave. */
function answeredWith(response: Response, instead: () => void): void {
  const { end } = response;
  response.end = (): Response => {
    response.end = end;
    response.removeHeader('Content-Length');
    instead();
    return response;
  };
}
