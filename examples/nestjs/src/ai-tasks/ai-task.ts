/** A task, and the rules by which it changes: no framework, no database, no clock. */

import { isDeepStrictEqual } from 'node:util';

export const STATES = [
  'pending',
  'in_progress',
  'succeeded',
  'failed',
] as const;
export type AiTaskState = (typeof STATES)[number];

/** Smaller is sooner. */
export const PRIORITIES = { critical: 0, high: 1, normal: 2, low: 3 } as const;
export type AiTaskPriority = keyof typeof PRIORITIES | number;

/** What the application says when it wants something done. */
export interface NewAiTask {
  type: string;
  content: Record<string, unknown> | string;
  /** Which callback gets the outcome, and what it needs to know then. */
  callbackRoute?: string;
  callbackParams?: Record<string, unknown>;
  priority?: AiTaskPriority;
}

/** Who works on the task, and until when nobody else may. */
export interface Lease {
  worker: string;
  expiresAt: Date;
}

/** `due`: still to be run; `running`: somebody runs it, and is given up after `until`. */
export type CallbackState =
  { step: 'none' | 'due' | 'done' } | { step: 'running'; until: Date };

export interface AiTask extends NewAiTask {
  id: string;
  state: AiTaskState;
  result: unknown;
  error: string | null;
  callback: CallbackState;
  lease: Lease | null;
  /** Counts the changes, so that a change that was decided on old facts is noticed. */
  version: number;
  createdAt: Date;
  updatedAt: Date;
}

/** What a worker says about a task. */
export interface Report {
  state: AiTaskState;
  result?: unknown;
  error?: string | null;
}

/** `same`: the report repeats what is known. `conflict`: the task is finished, with another outcome. */
export type Change =
  | { kind: 'changed'; task: AiTask }
  | { kind: 'same' }
  | { kind: 'conflict'; reason: string };

export function isFinished(task: AiTask): boolean {
  return task.state === 'succeeded' || task.state === 'failed';
}

/** Whether a worker may have it: pending, or its last worker's lease has expired. */
export function isClaimable(task: AiTask, now: Date): boolean {
  return (
    task.state === 'pending' ||
    (task.state === 'in_progress' && isExpired(task.lease, now))
  );
}

/** The task after a report. A finished task keeps its outcome, unless it is set back to pending to be done again. */
export function changed(task: AiTask, report: Report, now: Date): Change {
  if (isFinished(task) && report.state !== 'pending') {
    return repeats(task, report)
      ? { kind: 'same' }
      : { kind: 'conflict', reason: conflict(task, report) };
  }
  if (task.state === report.state && report.state === 'in_progress') {
    return { kind: 'same' };
  }
  return { kind: 'changed', task: next(task, outcome(task, report), now) };
}

/** The task in the hands of a worker. */
export function leased(task: AiTask, lease: Lease, now: Date): AiTask {
  return next(task, { state: 'in_progress', lease }, now);
}

/** The task while its callback runs; null where there is nothing to run, or somebody else runs it. */
export function callbackBegun(
  task: AiTask,
  now: Date,
  until: Date,
): AiTask | null {
  const abandoned =
    task.callback.step === 'running' && task.callback.until <= now;
  return task.callback.step === 'due' || abandoned
    ? next(task, { callback: { step: 'running', until } }, now)
    : null;
}

/** The task after its callback: done, or to be run when the report is sent again. */
export function callbackEnded(
  task: AiTask,
  step: 'done' | 'due',
  now: Date,
): AiTask {
  return next(task, { callback: { step } }, now);
}

export function rank(priority: AiTaskPriority | undefined): number {
  return typeof priority === 'number'
    ? priority
    : PRIORITIES[priority ?? 'normal'];
}

function next(task: AiTask, facts: Partial<AiTask>, now: Date): AiTask {
  return { ...task, ...facts, version: task.version + 1, updatedAt: now };
}

function outcome(task: AiTask, report: Report): Partial<AiTask> {
  const finished = report.state === 'succeeded' || report.state === 'failed';
  return {
    state: report.state,
    result: report.result ?? null,
    error: report.error ?? null,
    callback: { step: finished && task.callbackRoute ? 'due' : 'none' },
    lease: null,
  };
}

function isExpired(lease: Lease | null, now: Date): boolean {
  return lease !== null && lease.expiresAt <= now;
}

function repeats(task: AiTask, report: Report): boolean {
  return (
    task.state === report.state &&
    task.error === (report.error ?? null) &&
    isDeepStrictEqual(task.result, report.result ?? null)
  );
}

function conflict(task: AiTask, report: Report): string {
  return task.state === report.state
    ? `The task has ${task.state} already, with another ${task.state === 'failed' ? 'error' : 'result'}.`
    : `The task has ${task.state} already; only a change to pending, to do it again, is possible now.`;
}
