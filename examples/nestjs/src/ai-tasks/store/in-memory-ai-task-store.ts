/** Tasks in the memory of the process: to try things out, and for tests. A restart forgets them all. */

import { randomBytes } from 'node:crypto';
import {
  type AiTask,
  type NewAiTask,
  isClaimable,
  leased,
  rank,
} from '../ai-task';
import { AiTaskStore, type Claim, type Renewal } from './ai-task-store';

/** What decides and what keeps is done without waiting in between, so that no other call comes in between either. */
export class InMemoryAiTaskStore extends AiTaskStore {
  private readonly tasks = new Map<string, AiTask>();
  /** Those that are not finished. */
  private readonly open = new Set<string>();

  override add(tasks: NewAiTask[], now: Date): Promise<AiTask[]> {
    return Promise.resolve(tasks.map((task) => this.kept(newTask(task, now))));
  }

  override pending(limit: number, now: Date): Promise<AiTask[]> {
    return Promise.resolve(this.first(limit, now));
  }

  override claim({ limit, worker, now, expiresAt }: Claim): Promise<AiTask[]> {
    const lease = { worker, expiresAt };
    const claimed = this.first(limit, now);
    return Promise.resolve(
      claimed.map((task) => this.kept(leased(task, lease, now))),
    );
  }

  override renew({ ids, worker, now, expiresAt }: Renewal): Promise<void> {
    this.known(ids)
      .filter(({ lease }) => lease?.worker === worker && lease.expiresAt > now)
      .forEach((task) => this.kept(leased(task, { worker, expiresAt }, now)));
    return Promise.resolve();
  }

  override find(ids: string[]): Promise<AiTask[]> {
    return Promise.resolve(this.known(ids));
  }

  override replace(task: AiTask): Promise<boolean> {
    const current = this.tasks.get(task.id)?.version === task.version - 1;
    if (current) {
      this.kept(task);
    }
    return Promise.resolve(current);
  }

  private first(limit: number, now: Date): AiTask[] {
    const claimable = this.known(this.open).filter((task) =>
      isClaimable(task, now),
    );
    return claimable.sort(sooner).slice(0, limit);
  }

  private known(ids: Iterable<string>): AiTask[] {
    return [...ids].flatMap((id) => this.tasks.get(id) ?? []);
  }

  private kept(task: AiTask): AiTask {
    this.tasks.set(task.id, task);
    if (task.state === 'pending' || task.state === 'in_progress') {
      this.open.add(task.id);
    } else {
      this.open.delete(task.id);
    }
    return task;
  }
}

/** A task as it begins, with an id like those of MongoDB. */
function newTask(task: NewAiTask, now: Date): AiTask {
  return {
    ...task,
    id: randomBytes(12).toString('hex'),
    state: 'pending',
    result: null,
    error: null,
    callback: { step: 'none' },
    lease: null,
    version: 0,
    createdAt: now,
    updatedAt: now,
  };
}

/** Sorting keeps the order of what is equal: that in which the tasks came. */
function sooner(one: AiTask, other: AiTask): number {
  return (
    rank(one.priority) - rank(other.priority) ||
    one.createdAt.getTime() - other.createdAt.getTime()
  );
}
