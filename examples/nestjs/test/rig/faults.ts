/** Makes a share of the requests to the tasks fail, as networks, proxies and overloaded servers do. */

import type { NextFunction, Request, RequestHandler, Response } from 'express';

/** Shares of all requests, each between 0 and 1; `After`: the request has had its effect. */
export interface Faults {
  error?: number;
  errorAfter?: number;
  throttle?: number;
  drop?: number;
  dropAfter?: number;
  slow?: number;
}

type Meet = (request: Request, response: Response, next: NextFunction) => void;

const SLOW_MS = 400;

const MEET: Record<keyof Faults, Meet> = {
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
};

/** `onFault` is told the name of each fault. */
export function faulty(faults: Faults, onFault: (name: string) => void): RequestHandler {
  return (request, response, next) => {
    const fault = request.path.startsWith('/api/ai-tasks') ? drawn(faults, Math.random()) : null;
    if (fault === null) {
      next();
    } else {
      onFault(fault);
      MEET[fault](request, response, next);
    }
  };
}

function drawn(faults: Faults, chance: number): keyof Faults | null {
  let sum = 0;
  for (const [name, share] of Object.entries(faults)) {
    sum += share;
    if (chance < sum) {
      return name as keyof Faults;
    }
  }
  return null;
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
