/** Where the tasks are kept. */

import type { AiTask, NewAiTask } from '../ai-task';

export interface Claim {
  limit: number;
  worker: string;
  now: Date;
  expiresAt: Date;
}

export interface Renewal {
  ids: string[];
  worker: string;
  now: Date;
  expiresAt: Date;
}

/**
 * What a method did is durable when it returns, as far as the store is durable at all. Several processes may share what
 * lies behind it. Ids that the store cannot have made are unknown to it, and no error.
 */
export abstract class AiTaskStore {
  /** Keeps all as pending; answers them in order. */
  abstract add(tasks: NewAiTask[], now: Date): Promise<AiTask[]>;

  /** At most `limit` that a worker may have: priority first, then the oldest. */
  abstract pending(limit: number, now: Date): Promise<AiTask[]>;

  /** Leases at most `limit` of them to a worker; no task is ever leased to two. */
  abstract claim(claim: Claim): Promise<AiTask[]>;

  /** Makes the leases that the worker still has last longer. */
  abstract renew(renewal: Renewal): Promise<void>;

  /** Those of the tasks that are there, in any order. */
  abstract find(ids: string[]): Promise<AiTask[]>;

  /** Keeps `task` if nobody has changed it meanwhile: if the kept one is exactly one version behind. */
  abstract replace(task: AiTask): Promise<boolean>;
}
