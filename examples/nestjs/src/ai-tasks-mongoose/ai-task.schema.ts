/** A task as MongoDB keeps it, and the way from and to it. */

import { Prop, Schema, SchemaFactory } from '@nestjs/mongoose';
import { Schema as MongooseSchema, Types } from 'mongoose';
import {
  type AiTask,
  type AiTaskPriority,
  type AiTaskState,
  type CallbackState,
  type NewAiTask,
  STATES,
  rank,
} from '../ai-tasks/ai-task';

/** `claim` tells the tasks of one claim from those that another one got. */
export interface StoredLease {
  worker: string;
  expiresAt: Date;
  claim: string;
}

@Schema({ collection: 'ai_tasks', versionKey: false })
export class StoredAiTask {
  _id!: Types.ObjectId;

  @Prop({ type: String, required: true })
  type!: string;

  @Prop({ type: MongooseSchema.Types.Mixed, required: true })
  content!: Record<string, unknown> | string;

  @Prop({ type: String })
  callbackRoute?: string;

  @Prop({ type: MongooseSchema.Types.Mixed })
  callbackParams?: Record<string, unknown>;

  @Prop({ type: MongooseSchema.Types.Mixed })
  priority?: AiTaskPriority;

  /** The priority as a number, to sort by. */
  @Prop({ type: Number, required: true })
  rank!: number;

  @Prop({ type: String, enum: STATES, required: true })
  state!: AiTaskState;

  @Prop({ type: MongooseSchema.Types.Mixed, default: null })
  result!: unknown;

  @Prop({ type: String, default: null })
  error!: string | null;

  @Prop({ type: MongooseSchema.Types.Mixed, required: true })
  callback!: CallbackState;

  @Prop({ type: MongooseSchema.Types.Mixed, default: null })
  lease!: StoredLease | null;

  @Prop({ type: Number, required: true })
  version!: number;

  @Prop({ type: Date, required: true })
  createdAt!: Date;

  @Prop({ type: Date, required: true })
  updatedAt!: Date;
}

export const AiTaskSchema = SchemaFactory.createForClass(StoredAiTask);
AiTaskSchema.index({ state: 1, rank: 1, createdAt: 1, _id: 1 });

/** Priority first, then the oldest; ids of one process rise. */
export const SOONEST = { rank: 1, createdAt: 1, _id: 1 } as const;

export function newStoredTask(task: NewAiTask, now: Date): StoredAiTask {
  return {
    ...task,
    _id: new Types.ObjectId(),
    rank: rank(task.priority),
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

export function fromStored({
  _id,
  rank: _rank,
  lease,
  ...task
}: StoredAiTask): AiTask {
  return {
    ...task,
    id: _id.toHexString(),
    lease: lease && { worker: lease.worker, expiresAt: lease.expiresAt },
  };
}

/** What a report or a callback may have changed. */
export function changedFacts({
  state,
  result,
  error,
  callback,
  version,
  updatedAt,
}: AiTask): Partial<StoredAiTask> {
  return { state, result, error, callback, version, updatedAt };
}

/** Those that a worker may have: the rule of `isClaimable`, for the database. */
export function claimable(now: Date): object {
  return {
    $or: [
      { state: 'pending' },
      { state: 'in_progress', 'lease.expiresAt': { $lte: now } },
    ],
  };
}

/** Those of the ids that MongoDB can have made. */
export function objectIds(ids: string[]): Types.ObjectId[] {
  return ids
    .filter((id) => /^[0-9a-f]{24}$/i.test(id))
    .map((id) => new Types.ObjectId(id));
}
