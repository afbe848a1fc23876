import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { Api, SUCCEEDED, ids } from './api';

describe('fetching', () => {
  let api: Api;
  beforeEach(async () => {
    api = await Api.started();
  });
  afterEach(() => api.stop());

  test('a task has the fields of the contract', async () => {
    const [id] = await api.add({
      content: { text: 'x', model: 'm' },
      callbackRoute: 'note',
      callbackParams: { documentId: 'd' },
      priority: 'high',
    });
    const { createdAt, updatedAt, ...task } = (await api.pending()).body[0];
    assert.deepEqual(task, {
      _id: id,
      type: 'text_embedding',
      state: 'pending',
      content: { text: 'x', model: 'm' },
      callbackRoute: 'note',
      callbackParams: { documentId: 'd' },
      priority: 'high',
    });
    assert.equal(new Date(createdAt).toISOString(), createdAt);
    assert.equal(updatedAt, createdAt);
  });

  test('the limit is obeyed, and a hundred without one', async () => {
    await api.add(...Array(120).fill({}));
    assert.deepEqual(
      [
        await api.pending('?limit=7'),
        await api.pending(),
        await api.pending('?limit=99999999'),
      ].map(({ body }) => body.length),
      [7, 100, 120],
    );
  });

  for (const limit of ['0', '-1', '1.5', 'many', '1e999']) {
    test(`a limit of ${limit} is refused`, async () => {
      assert.equal((await api.pending(`?limit=${limit}`)).status, 422);
    });
  }

  test('the most urgent is claimed first, then the oldest, and nobody else gets it', async () => {
    const [old, young, urgent] = await api.add(
      {},
      {},
      { priority: 'critical' },
    );
    const first = await api.claim({
      limit: 2,
      leaseSeconds: 60,
      worker: 'one',
    });
    assert.equal(first.status, 200);
    assert.deepEqual(ids(first), [urgent, old]);
    const { state, leaseExpiresAt } = first.body[0];
    assert.equal(state, 'in_progress');
    assert.ok(
      Math.abs(Date.parse(leaseExpiresAt) - Date.now() - 60_000) < 5_000,
    );
    assert.deepEqual(
      ids(await api.claim({ limit: 9, leaseSeconds: 60, worker: 'two' })),
      [young],
    );
    assert.deepEqual((await api.pending()).body, []);
  });

  test('a lease that is renewed in time is kept; the others go back', async ({
    mock,
  }) => {
    mock.timers.enable({ apis: ['Date'], now: Date.now() });
    const [kept, lost] = await api.add({}, {});
    await api.claim({ limit: 9, leaseSeconds: 1, worker: 'one' });
    assert.deepEqual(
      (
        await api.claim({
          limit: 0,
          leaseSeconds: 60,
          worker: 'two',
          renew: [lost],
        })
      ).body,
      [],
    );
    assert.deepEqual(
      (
        await api.claim({
          limit: 3,
          leaseSeconds: 60,
          worker: 'one',
          renew: [kept, 'gone'],
        })
      ).body,
      [],
    );
    mock.timers.tick(1_000);
    const pending = (await api.pending()).body;
    assert.deepEqual(
      pending.map(({ _id, state }: { _id: string; state: string }) => [
        _id,
        state,
      ]),
      [[lost, 'pending']],
    );
    assert.deepEqual(
      ids(await api.claim({ limit: 9, leaseSeconds: 60, worker: 'two' })),
      [lost],
    );
  });

  test('a result counts also when its lease has gone to somebody else; the first one stands', async () => {
    const [id] = await api.add({ callbackRoute: 'note' });
    await api.claim({ limit: 1, leaseSeconds: 60, worker: 'one' });
    assert.equal((await api.report(id!, SUCCEEDED)).status, 200);
    assert.equal(
      (await api.report(id!, { state: 'succeeded', result: [9] })).status,
      409,
    );
    assert.deepEqual(
      (await api.claim({ limit: 1, leaseSeconds: 60, worker: 'two' })).body,
      [],
    );
  });

  test('a task that is given back can be claimed at once', async () => {
    const [id] = await api.add({});
    await api.claim({ limit: 1, leaseSeconds: 60, worker: 'one' });
    await api.report(id!, { state: 'pending' });
    assert.deepEqual(
      ids(await api.claim({ limit: 1, leaseSeconds: 60, worker: 'two' })),
      [id],
    );
  });

  const REFUSED: object[] = [
    {},
    { limit: 1, leaseSeconds: 60 },
    { limit: -1, leaseSeconds: 60, worker: 'w' },
    { limit: 1, leaseSeconds: 0, worker: 'w' },
    { limit: 1, leaseSeconds: 60, worker: '' },
    { limit: 0, leaseSeconds: 60, renew: ['x'] },
    { limit: 1, leaseSeconds: 60, worker: 'w', renew: [7] },
  ];
  for (const claim of REFUSED) {
    test(`a claim of ${JSON.stringify(claim)} is refused`, async () => {
      assert.equal((await api.claim(claim)).status, 422);
    });
  }
});
