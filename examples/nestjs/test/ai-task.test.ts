import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type AiTask,
  type AiTaskState,
  callbackBegun,
  callbackEnded,
  changed,
  isClaimable,
  leased,
  rank,
} from '../src/ai-tasks/ai-task';

const NOW = new Date('2026-01-01T12:00:00Z');
const LATER = new Date('2026-01-01T12:01:00Z');

const PENDING: AiTask = {
  id: 'a',
  type: 'text_embedding',
  content: 'x',
  callbackRoute: 'note',
  state: 'pending',
  result: null,
  error: null,
  callback: { step: 'none' },
  lease: null,
  version: 3,
  createdAt: NOW,
  updatedAt: NOW,
};

const DONE = after(PENDING, { state: 'succeeded', result: [1, 2] });

function after(task: AiTask, report: Parameters<typeof changed>[1]): AiTask {
  const change = changed(task, report, LATER);
  assert.equal(change.kind, 'changed');
  return (change as { task: AiTask }).task;
}

test('an outcome is kept, its callback is due, and the lease is over', () => {
  const held = leased(PENDING, { worker: 'w', expiresAt: LATER }, NOW);
  const { state, result, callback, lease, version, updatedAt } = after(held, {
    state: 'succeeded',
    result: [1],
  });
  assert.deepEqual(
    { state, result, callback, lease, version, updatedAt },
    {
      state: 'succeeded',
      result: [1],
      callback: { step: 'due' },
      lease: null,
      version: 5,
      updatedAt: LATER,
    },
  );
});

test('a task without a callback has none to run', () => {
  assert.deepEqual(
    after(
      { ...PENDING, callbackRoute: undefined },
      { state: 'failed', error: 'x' },
    ).callback,
    {
      step: 'none',
    },
  );
});

const REPORTS: [
  report: { state: AiTaskState; result?: unknown; error?: string },
  kind: string,
][] = [
  [{ state: 'succeeded', result: [1, 2] }, 'same'],
  [{ state: 'succeeded', result: [1, 3] }, 'conflict'],
  [{ state: 'succeeded', result: [1, 2], error: 'x' }, 'conflict'],
  [{ state: 'failed', error: 'x' }, 'conflict'],
  [{ state: 'in_progress' }, 'conflict'],
  [{ state: 'pending' }, 'changed'],
];

for (const [report, kind] of REPORTS) {
  test(`${JSON.stringify(report)} for a task that has succeeded: ${kind}`, () => {
    assert.equal(changed(DONE, report, LATER).kind, kind);
  });
}

test('a task that is set back to pending has forgotten its outcome', () => {
  const { result, error, callback, state } = after(DONE, { state: 'pending' });
  assert.deepEqual(
    { result, error, callback, state },
    { result: null, error: null, callback: { step: 'none' }, state: 'pending' },
  );
});

test('a lease keeps others away until it expires; work that was begun without one does for ever', () => {
  const held = leased(PENDING, { worker: 'w', expiresAt: LATER }, NOW);
  assert.equal(isClaimable(held, NOW), false);
  assert.equal(isClaimable(held, LATER), true);
  assert.equal(
    isClaimable(after(PENDING, { state: 'in_progress' }), LATER),
    false,
  );
});

test('a callback is begun once, again when it was abandoned or has failed, and never when it is done', () => {
  const begun = callbackBegun(DONE, NOW, LATER)!;
  assert.equal(callbackBegun(begun, NOW, LATER), null);
  assert.notEqual(callbackBegun(begun, LATER, LATER), null);
  assert.notEqual(
    callbackBegun(callbackEnded(begun, 'due', NOW), NOW, LATER),
    null,
  );
  assert.equal(
    callbackBegun(callbackEnded(begun, 'done', NOW), LATER, LATER),
    null,
  );
});

test('priorities have an order, and tasks without one are normal', () => {
  assert.deepEqual(
    [rank('critical'), rank('high'), rank(undefined), rank('low'), rank(-7)],
    [0, 1, 2, 3, -7],
  );
});
