/** Makes some of the requests to the tasks fail, as networks, proxies and overloaded servers do. */

import type { NextFunction, Request, RequestHandler, Response } from 'express';

type Meet = (request: Request, response: Response, next: NextFunction) => void;

const SLOW_MS = 400;

/** What can go wrong; `After`: the request has had its effect. */
const FAULTS = {
  error: (_, response) => void response.status(500).json({ statusCode: 500, message: 'out of order' }),
  errorAfter: (_, response, next) => {
    answeredWith(response, () => response.writeHead(502).end());
    next();
  },
  throttle: (_, response) => void response.status(429).setHeader('Retry-After', '1').json({ statusCode: 429 }),
  drop: (request) => void request.socket.destroy(),
  dropAfter: (request, response, next) => {
    answeredWith(response, () => request.socket.destroy());
    next();
  },
  slow: (_, __, next) => void setTimeout(next, SLOW_MS),
} satisfies Record<string, Meet>;

export type Fault = keyof typeof FAULTS;

const NAMES = Object.keys(FAULTS) as Fault[];

/** One fault for every so many requests, each kind in its turn. */
export class Faults {
  private requests = 0;

  constructor(
    private readonly every: number,
    private readonly onFault: (name: Fault) => void,
  ) {}

  async next(): Promise<Fault | null> {
    this.requests += 1;
    if (this.requests % this.every !== 0) {
      return null;
    }
    const name = NAMES[(this.requests / this.every) % NAMES.length]!;
    this.onFault(name);
    return name;
  }
}

export function faulty(faults: Faults): RequestHandler {
  return async (request, response, next) => {
    const fault = request.path.startsWith('/api/ai-tasks') ? await faults.next() : null;
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
