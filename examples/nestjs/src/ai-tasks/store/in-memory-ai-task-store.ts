/** Tasks in the memory of the process: to try things out, and for tests. A restart forgets them all. */

import { randomBytes } from 'node:crypto';
import { type AiTask, type NewAiTask, isClaimable, leased, rank } from '../ai-task';
import { AiTaskStore, type Claim, type Renewal } from './ai-task-store';

/** What decides and what keeps is done without waiting in between, so that no other call comes in between either. */
export class InMemoryAiTaskStore extends AiTaskStore {
  private readonly tasks = new Map<string, AiTask>();
  /** Those that are not finished. */
  private readonly open = new Set<string>();

  override async add(tasks: NewAiTask[], now: Date): Promise<AiTask[]> {
    const added = tasks.map((task) => newTask(task, now));
    added.forEach((task) => this.keep(task));
    return added;
  }

  override async pending(limit: number, now: Date): Promise<AiTask[]> {
    return this.first(limit, now);
  }

  override async claim({ limit, worker, now, expiresAt }: Claim): Promise<AiTask[]> {
    const claimed = this.first(limit, now).map((task) => leased(task, { worker, expiresAt }, now));
    claimed.forEach((task) => this.keep(task));
    return claimed;
  }

  override async renew({ ids, worker, now, expiresAt }: Renewal): Promise<void> {
    for (const task of this.known(ids)) {
      if (task.lease?.worker === worker && task.lease.expiresAt > now) {
        this.keep(leased(task, { worker, expiresAt }, now));
      }
    }
  }

  override async find(ids: string[]): Promise<AiTask[]> {
    return this.known(ids);
  }

  override async replace(task: AiTask): Promise<boolean> {
    if (this.tasks.get(task.id)?.version !== task.version - 1) {
      return false;
    }
    this.keep(task);
    return true;
  }

  private first(limit: number, now: Date): AiTask[] {
    const claimable = this.known(this.open).filter((task) => isClaimable(task, now));
    return claimable.sort(sooner).slice(0, limit);
  }

  private known(ids: Iterable<string>): AiTask[] {
    return [...ids].flatMap((id) => this.tasks.get(id) ?? []);
  }

  private keep(task: AiTask): void {
    this.tasks.set(task.id, task);
    if (task.state === 'pending' || task.state === 'in_progress') {
      this.open.add(task.id);
    } else {
      this.open.delete(task.id);
    }
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
  return rank(one.priority) - rank(other.priority) || one.createdAt.getTime() - other.createdAt.getTime();
}
