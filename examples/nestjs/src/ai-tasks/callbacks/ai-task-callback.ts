/** `@AiTaskCallback('route')` on a method of any provider: it gets the outcomes of the tasks with that `callbackRoute`. */

import { DiscoveryService } from '@nestjs/core';

/** A finished task, as its callback sees it. */
export interface FinishedAiTask {
  id: string;
  type: string;
  state: 'succeeded' | 'failed';
  content: Record<string, unknown> | string;
  callbackParams: Record<string, unknown>;
  /** Of a task that has succeeded. For embeddings: see `embeddingOf`. */
  result: unknown;
  /** Of a task that has failed: what its author must change. */
  error: string | null;
}

/**
 * Runs at least once per outcome, never twice at the same time, and not again once it has returned. When it throws, the
 * worker is answered with a 5xx, sends the outcome again later, and the callback runs again.
 */
export type AiTaskCallbackMethod = (
  task: FinishedAiTask,
) => Promise<void> | void;

export const AiTaskCallback = DiscoveryService.createDecorator<string>();
