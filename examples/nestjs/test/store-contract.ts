/** What every store must do; each implementation runs it. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { callbackBegun, changed } from '../src/ai-tasks/ai-task';
import type { AiTaskStore } from '../src/ai-tasks';
import { assertHas } from './api';

const NOW = new Date('2026-01-01T12:00:00Z');
const SOON = new Date('2026-01-01T12:00:30Z');
const LATER = new Date('2026-01-01T12:01:00Z');
const TASK = {
  type: 'text_embedding',
  content: { text: 'x' },
  callbackRoute: 'note',
  callbackParams: { a: 1 },
};

export function storeContract(
  name: string,
  opened: () => Promise<AiTaskStore>,
): void {
  const contract = (
    sentence: string,
    check: (store: AiTaskStore) => Promise<void>,
  ) => test(`${name}: ${sentence}`, async () => check(await opened()));

  contract(
    'what was added is found, and what was not is not',
    async (store) => {
      const [task] = await store.add([TASK, TASK], NOW);
      const [found, ...others] = await store.find([
        task!.id,
        'f'.repeat(24),
        'no id at all',
      ]);
      assert.deepEqual(found, task);
      assert.deepEqual(others, []);
      assertHas(task, {
        ...TASK,
        state: 'pending',
        version: 0,
        createdAt: NOW,
        lease: null,
      });
    },
  );

  contract(
    'pending tasks come by priority, then by age, and no more than wanted',
    async (store) => {
      await store.add([{ ...TASK, content: 'late' }], LATER);
      await store.add(
        [
          TASK,
          { ...TASK, content: 'first', priority: 'critical' },
          { ...TASK, priority: 7 },
        ],
        NOW,
      );
      const pending = await store.pending(3, LATER);
      assert.deepEqual(
        pending.map(({ content }) => content),
        ['first', { text: 'x' }, 'late'],
      );
    },
  );

  contract(
    'claimed tasks are nobody else’s until the lease expires',
    async (store) => {
      await store.add([TASK, TASK, TASK], NOW);
      const claimed = await store.claim({
        limit: 2,
        worker: 'w',
        now: NOW,
        expiresAt: SOON,
      });
      assert.deepEqual(
        claimed.map(({ state, lease }) => [state, lease]),
        Array(2).fill(['in_progress', { worker: 'w', expiresAt: SOON }]),
      );
      assert.equal(
        (
          await store.claim({
            limit: 9,
            worker: 'v',
            now: NOW,
            expiresAt: SOON,
          })
        ).length,
        1,
      );
      assert.equal((await store.pending(9, NOW)).length, 0);
      assert.equal((await store.pending(9, SOON)).length, 3);
      assert.equal(
        (
          await store.claim({
            limit: 9,
            worker: 'v',
            now: SOON,
            expiresAt: LATER,
          })
        ).length,
        3,
      );
    },
  );

  contract('claims at the same time share no task', async (store) => {
    await store.add(Array(40).fill(TASK), NOW);
    const workers = ['a', 'b', 'c', 'd'];
    const claims = await Promise.all(
      workers.map((worker) =>
        store.claim({ limit: 10, worker, now: NOW, expiresAt: SOON }),
      ),
    );
    const ids = claims.flat().map(({ id }) => id);
    assert.equal(new Set(ids).size, ids.length);
  });

  contract(
    'a lease is renewed for its worker, while it has it',
    async (store) => {
      const [one, other] = await store.add([TASK, TASK], NOW);
      await store.claim({ limit: 2, worker: 'w', now: NOW, expiresAt: SOON });
      await store.renew({
        ids: [one!.id, 'none'],
        worker: 'w',
        now: NOW,
        expiresAt: LATER,
      });
      await store.renew({
        ids: [other!.id],
        worker: 'v',
        now: NOW,
        expiresAt: LATER,
      });
      await store.renew({
        ids: [other!.id],
        worker: 'w',
        now: SOON,
        expiresAt: LATER,
      });
      assert.deepEqual(
        (await store.pending(9, SOON)).map(({ id }) => id),
        [other!.id],
      );
    },
  );

  contract(
    'a change that was decided on old facts is not made',
    async (store) => {
      const [task] = await store.add([TASK], NOW);
      const change = changed(
        task!,
        { state: 'succeeded', result: [1, 0.1] },
        SOON,
      );
      assert.ok(change.kind === 'changed');
      assert.equal(await store.replace(change.task), true);
      assert.equal(await store.replace(change.task), false);
      const [kept] = await store.find([task!.id]);
      assert.deepEqual(kept, change.task);
      assert.equal(
        await store.replace(callbackBegun(kept!, SOON, LATER)!),
        true,
      );
      assert.deepEqual((await store.find([task!.id]))[0]!.callback, {
        step: 'running',
        until: LATER,
      });
      assert.deepEqual(await store.pending(9, LATER), []);
    },
  );

  contract(
    'a task that is set back to pending is listed again',
    async (store) => {
      const [task] = await store.add([TASK], NOW);
      const [held] = await store.claim({
        limit: 1,
        worker: 'w',
        now: NOW,
        expiresAt: LATER,
      });
      const change = changed(held!, { state: 'pending' }, SOON);
      assert.ok(
        change.kind === 'changed' && (await store.replace(change.task)),
      );
      assert.deepEqual(
        (await store.pending(9, SOON)).map(({ id }) => id),
        [task!.id],
      );
    },
  );
}
