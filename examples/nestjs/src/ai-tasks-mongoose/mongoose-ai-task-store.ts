/** Tasks in MongoDB; any number of processes may share them. */

import { randomUUID } from 'node:crypto';
import { Injectable } from '@nestjs/common';
import { InjectModel } from '@nestjs/mongoose';
import type { Model } from 'mongoose';
import type { AiTask, NewAiTask } from '../ai-tasks/ai-task';
import {
  AiTaskStore,
  type Claim,
  type Renewal,
} from '../ai-tasks/store/ai-task-store';
import {
  SOONEST,
  StoredAiTask,
  changedFacts,
  claimable,
  fromStored,
  newStoredTask,
  objectIds,
} from './ai-task.schema';

@Injectable()
export class MongooseAiTaskStore extends AiTaskStore {
  constructor(
    @InjectModel(StoredAiTask.name) private readonly tasks: Model<StoredAiTask>,
  ) {
    super();
  }

  override async add(tasks: NewAiTask[], now: Date): Promise<AiTask[]> {
    const stored = tasks.map((task) => newStoredTask(task, now));
    await this.tasks.insertMany(stored);
    return stored.map(fromStored);
  }

  override async pending(limit: number, now: Date): Promise<AiTask[]> {
    const found = await this.tasks
      .find(claimable(now))
      .sort(SOONEST)
      .limit(limit)
      .lean<StoredAiTask[]>();
    return found.map(fromStored);
  }

  /** Others may claim the same candidates: each document goes to whoever changes it first. */
  override async claim({
    limit,
    worker,
    now,
    expiresAt,
  }: Claim): Promise<AiTask[]> {
    const candidates = await this.tasks
      .find(claimable(now), { _id: 1 })
      .sort(SOONEST)
      .limit(limit)
      .lean();
    const claim = randomUUID();
    const ids = { $in: candidates.map((task) => task._id) };
    await this.tasks.updateMany(
      { _id: ids, ...claimable(now) },
      {
        $set: {
          state: 'in_progress',
          lease: { worker, expiresAt, claim },
          updatedAt: now,
        },
        $inc: { version: 1 },
      },
    );
    const mine = await this.tasks
      .find({ _id: ids, 'lease.claim': claim })
      .sort(SOONEST)
      .lean<StoredAiTask[]>();
    return mine.map(fromStored);
  }

  override async renew({
    ids,
    worker,
    now,
    expiresAt,
  }: Renewal): Promise<void> {
    await this.tasks.updateMany(
      {
        _id: { $in: objectIds(ids) },
        state: 'in_progress',
        'lease.worker': worker,
        'lease.expiresAt': { $gt: now },
      },
      {
        $set: { 'lease.expiresAt': expiresAt, updatedAt: now },
        $inc: { version: 1 },
      },
    );
  }

  override async find(ids: string[]): Promise<AiTask[]> {
    const found = await this.tasks
      .find({ _id: { $in: objectIds(ids) } })
      .lean<StoredAiTask[]>();
    return found.map(fromStored);
  }

  /** Reports end leases, and nothing else is replaced: a lease is never written by this. */
  override async replace(task: AiTask): Promise<boolean> {
    const facts = {
      ...changedFacts(task),
      ...(task.lease === null && { lease: null }),
    };
    const { matchedCount } = await this.tasks.updateOne(
      { _id: { $in: objectIds([task.id]) }, version: task.version - 1 },
      { $set: facts },
    );
    return matchedCount === 1;
  }
}
