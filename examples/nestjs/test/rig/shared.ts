/** Objects of the primary process that its workers can call: the database that they share. */

import cluster, { type Worker } from 'node:cluster';

interface Call {
  call: number;
  target: string;
  method: string;
  parameters: unknown[];
}

type Answer =
  { answer: number; value: unknown } | { answer: number; error: string };
type Waiting = {
  resolve: (value: unknown) => void;
  reject: (error: Error) => void;
};
type Methods = Record<string, (...parameters: unknown[]) => Promise<unknown>>;

const waiting = new Map<number, Waiting>();
let calls = 0;

/** In the primary: does what the workers ask for. */
export function share(targets: Record<string, object>): void {
  cluster.on('message', (worker: Worker, message: Call) => {
    if ('call' in message) {
      void answer(targets[message.target] as Methods, message).then(
        (sent) => worker.isConnected() && worker.send(sent),
      );
    }
  });
}

/** In a worker: an object whose methods are those of the primary's object of this name. */
export function shared<T extends object>(target: string): T {
  return new Proxy({} as T, {
    get: (_, method) =>
      typeof method === 'string' &&
      method !== 'then' &&
      !method.startsWith('on') &&
      !method.startsWith('before')
        ? (...parameters: unknown[]) =>
            called({ call: ++calls, target, method, parameters })
        : undefined,
  });
}

export function receiveAnswers(): void {
  process.on('message', (message: Answer) => {
    if ('answer' in message) {
      const { resolve, reject } = waiting.get(message.answer)!;
      waiting.delete(message.answer);
      if ('error' in message) {
        reject(new Error(message.error));
      } else {
        resolve(message.value);
      }
    }
  });
}

function called(call: Call): Promise<unknown> {
  return new Promise((resolve, reject) => {
    waiting.set(call.call, { resolve, reject });
    process.send!(call);
  });
}

async function answer(
  target: Methods,
  { call, method, parameters }: Call,
): Promise<Answer> {
  try {
    return { answer: call, value: await target[method]!(...parameters) };
  } catch (error) {
    return { answer: call, error: String(error) };
  }
}
