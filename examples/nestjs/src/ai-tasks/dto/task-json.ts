/** A task as workers see it. */

import type { AiTask } from '../ai-task';

export interface TaskJson {
  _id: string;
  type: string;
  state: string;
  content: unknown;
  callbackRoute?: string;
  callbackParams?: Record<string, unknown>;
  priority?: string | number;
  createdAt: string;
  updatedAt: string;
}

export type LeasedTaskJson = TaskJson & { leaseExpiresAt: string };

/** One whose lease has expired is pending, whatever was last written down. */
export function pendingJson(task: AiTask): TaskJson {
  return { ...taskJson(task), state: 'pending' };
}

export function leasedJson(task: AiTask): LeasedTaskJson {
  return {
    ...taskJson(task),
    leaseExpiresAt: task.lease!.expiresAt.toISOString(),
  };
}

/** The answer to a report: what became of the task, without what the worker has just sent itself. */
export function changedJson({
  id,
  type,
  state,
  updatedAt,
}: AiTask): Record<string, string> {
  return { _id: id, type, state, updatedAt: updatedAt.toISOString() };
}

function taskJson(task: AiTask): TaskJson {
  return {
    _id: task.id,
    type: task.type,
    state: task.state,
    content: task.content,
    callbackRoute: task.callbackRoute,
    callbackParams: task.callbackParams,
    priority: task.priority,
    createdAt: task.createdAt.toISOString(),
    updatedAt: task.updatedAt.toISOString(),
  };
}
