import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ValidationPipe } from '@nestjs/common';
import { Api, SUCCEEDED, assertHas } from './api';

describe('reports', () => {
  let api: Api;
  before(async () => {
    api = await Api.started({ callbackSeconds: 0.05 });
  });
  after(() => api.stop());

  async function added(callbackRoute?: string): Promise<string> {
    const [id] = await api.add({
      callbackRoute,
      callbackParams: { documentId: 'd' },
    });
    return id!;
  }

  function callsFor(id: string): number {
    return api.callbacks.seen.filter((task) => task.id === id).length;
  }

  test('a result arrives at its callback, once, however often it is sent', async () => {
    const id = await added('note');
    const answers = [
      await api.report(id, SUCCEEDED),
      await api.report(id, SUCCEEDED),
    ];
    assert.deepEqual(
      answers.map(({ status }) => status),
      [200, 200],
    );
    assertHas(answers[0]!.body, { _id: id, state: 'succeeded' });
    assert.equal(callsFor(id), 1);
    const seen = api.callbacks.seen.find((task) => task.id === id);
    assertHas(seen, {
      state: 'succeeded',
      result: SUCCEEDED.result,
      error: null,
      callbackParams: { documentId: 'd' },
    });
  });

  test('a failure arrives there too', async () => {
    const id = await added('note');
    assert.equal(
      (
        await api.report(id, {
          state: 'failed',
          result: null,
          error: 'too long',
        })
      ).status,
      200,
    );
    assertHas(api.callbacks.seen.at(-1), {
      id,
      state: 'failed',
      error: 'too long',
      result: null,
    });
  });

  test('another result for a finished task is a conflict, and changes nothing', async () => {
    const id = await added('note');
    await api.report(id, SUCCEEDED);
    assert.equal(
      (await api.report(id, { ...SUCCEEDED, result: [0.5, -0.25, 2] })).status,
      409,
    );
    assert.equal(
      (await api.report(id, { state: 'failed', error: 'x' })).status,
      409,
    );
    assert.equal((await api.report(id, SUCCEEDED)).status, 200);
    assert.equal(callsFor(id), 1);
  });

  test('a callback that fails answers 500 and leaves the state; sent again it runs until it has succeeded', async () => {
    const id = await added('note');
    api.callbacks.failures = 2;
    const statuses = [];
    for (let sending = 0; sending < 4; sending += 1) {
      statuses.push((await api.report(id, SUCCEEDED)).status);
    }
    assert.deepEqual(statuses, [500, 500, 200, 200]);
    assert.equal(callsFor(id), 3);
    assert.equal((await api.report(id, { state: 'failed' })).status, 409);
  });

  test('a callback never runs twice at the same time, and one that does not end is given up', async () => {
    const id = await added('note');
    let release = (): void => undefined;
    api.callbacks.hold = new Promise((resolve) => (release = resolve));
    const first = api.report(id, SUCCEEDED);
    while (callsFor(id) === 0) {
      await sleep(1);
    }
    assert.equal((await api.report(id, SUCCEEDED)).status, 503);
    await sleep(50);
    const second = api.report(id, SUCCEEDED);
    while (callsFor(id) === 1) {
      await sleep(1);
    }
    release();
    assert.deepEqual([(await first).status, (await second).status], [200, 200]);
    assert.equal((await api.report(id, SUCCEEDED)).status, 200);
    assert.equal(callsFor(id), 2);
  });

  test('a task whose callback nobody knows is refused when it is created', async () => {
    await assert.rejects(added('nobody'), /@AiTaskCallback\('nobody'\)/);
  });

  test('a finished task that is set back to pending is listed, done again, and called back again', async () => {
    const id = await added('note');
    await api.report(id, SUCCEEDED);
    assert.equal((await api.report(id, { state: 'pending' })).status, 200);
    assert.ok(
      (await api.pending()).body.some(
        (task: { _id: string }) => task._id === id,
      ),
    );
    assert.equal(
      (await api.report(id, { ...SUCCEEDED, result: [7] })).status,
      200,
    );
    assert.equal(callsFor(id), 2);
  });

  test('a task in progress is not listed, and may be said to be so twice', async () => {
    const id = await added();
    assert.equal((await api.report(id, { state: 'in_progress' })).status, 200);
    assert.equal((await api.report(id, { state: 'in_progress' })).status, 200);
    assert.ok(
      !(await api.pending()).body.some(
        (task: { _id: string }) => task._id === id,
      ),
    );
    assert.equal((await api.report(id, SUCCEEDED)).status, 200);
  });

  const REFUSED: [what: string, report: unknown, status: number][] = [
    ['no JSON', '{"state"', 400],
    ['a state that there is not', { state: 'done' }, 422],
    ['success without a result', { state: 'succeeded', result: null }, 422],
    ['an empty vector', { state: 'succeeded', result: [] }, 422],
    ['a vector with a hole', { state: 'succeeded', result: [1, null] }, 422],
    ['a result that is no vector', { state: 'succeeded', result: 'x' }, 422],
    ['a failure with a result', { state: 'failed', result: [1] }, 422],
    ['an error that is no text', { state: 'failed', error: 7 }, 422],
    ['an error with a success', { ...SUCCEEDED, error: 'x' }, 422],
  ];
  for (const [what, report, status] of REFUSED) {
    test(`refused with ${status}: ${what}`, async () => {
      const id = await added();
      const answer = await api.report(id, report);
      assert.equal(answer.status, status);
      assert.equal(answer.body.statusCode, status);
      assert.equal((await api.report(id, SUCCEEDED)).status, 200);
    });
  }

  test('a task that there is not is answered with 404, whatever its id looks like', async () => {
    for (const id of ['0'.repeat(24), 'x', '%20', '__proto__']) {
      assert.equal((await api.report(id, SUCCEEDED)).status, 404);
    }
  });

  test('detailed results and fields that nobody knows are taken', async () => {
    const id = await added('note');
    const result = {
      embedding: [1, 2],
      model: 'm',
      provider: 'p',
      dimensions: 2,
      usage: { tokens: 1 },
    };
    assert.equal(
      (await api.report(id, { state: 'succeeded', result, extra: 1 })).status,
      200,
    );
    assert.deepEqual(api.callbacks.seen.at(-1)!.result, result);
  });

  test('two hundred vectors of 768 numbers are taken at once, and ten times more are too many', async () => {
    const ids = await api.add(...Array(200).fill({}));
    const vector = Array.from({ length: 768 }, (_, index) =>
      Math.fround(Math.sin(index)),
    );
    const results = ids.map((id) => ({
      id,
      state: 'succeeded',
      result: vector,
    }));
    const answer = await api.ask('PATCH', '/api/ai-tasks', { results });
    assert.equal(answer.status, 200);
    assert.deepEqual(answer.body, {
      results: ids.map((id) => ({ id, status: 200 })),
    });
    assert.equal(
      (
        await api.ask('PATCH', '/api/ai-tasks', {
          results: Array(10).fill(results).flat(),
        })
      ).status,
      413,
    );
  });

  test('each of many reports is answered as if it had come alone', async () => {
    const [good, done, again] = await api.add(
      { callbackRoute: 'note' },
      {},
      {},
    );
    await api.report(done!, SUCCEEDED);
    const results = [
      { id: good, ...SUCCEEDED },
      { id: 'x', ...SUCCEEDED },
      { id: done, state: 'failed', error: 'other' },
      { id: done, ...SUCCEEDED },
      { id: again, state: 'succeeded', result: [] },
      { id: again, state: 'failed', result: null, error: 'too long' },
      { state: 'failed' },
      'no report',
    ];
    const answer = await api.ask('PATCH', '/api/ai-tasks', { results });
    const said = answer.body.results.map(
      ({ id, status }: { id: string; status: number }) => [id, status],
    );
    const wanted = [good, 'x', done, done, again, again, null, null].map(
      (id, index) => [id, [200, 404, 409, 200, 422, 200, 422, 422][index]],
    );
    assert.deepEqual(said, wanted);
    assert.ok(
      answer.body.results.every(
        ({ status, error }: { status: number; error?: string }) =>
          (status === 200) === (error === undefined),
      ),
    );
    assert.equal(callsFor(good!), 1);
  });

  test('a callback that fails among many spoils none of the others', async () => {
    const ids = await api.add({ callbackRoute: 'note' }, {});
    api.callbacks.failures = 1;
    const results = ids.map((id) => ({ id, ...SUCCEEDED }));
    const statuses = async () =>
      (await api.ask('PATCH', '/api/ai-tasks', { results })).body.results.map(
        ({ status }: { status: number }) => status,
      );
    assert.deepEqual(
      [await statuses(), await statuses()],
      [
        [500, 200],
        [200, 200],
      ],
    );
  });

  test('a daemon that asks what is there gets its answers', async () => {
    assertHas(await api.ask('PATCH', '/api/ai-tasks', { results: [] }), {
      status: 200,
      body: { results: [] },
    });
    assertHas(await api.claim({ limit: 0 }), { status: 200, body: [] });
    assert.equal(
      (await api.ask('PATCH', '/api/ai-tasks', { results: 'x' })).status,
      422,
    );
  });
});

describe('an application with strict pipes of its own', () => {
  test('gets its results, alone and many at once, and gives its tasks', async () => {
    const strict = new ValidationPipe({
      whitelist: true,
      forbidNonWhitelisted: true,
      transform: true,
    });
    const api = await Api.started({}, undefined, [strict]);
    const [one, other] = await api.add({ callbackRoute: 'note' }, {});
    assert.equal((await api.pending('?limit=2')).body.length, 2);
    assert.equal(
      (
        await api.claim({
          limit: 1,
          leaseSeconds: 9,
          worker: 'w',
          renew: [one],
        })
      ).body.length,
      1,
    );
    assert.equal((await api.report(one!, SUCCEEDED)).status, 200);
    assert.deepEqual(api.callbacks.seen[0]!.result, SUCCEEDED.result);
    const many = await api.ask('PATCH', '/api/ai-tasks', {
      results: [{ id: other, ...SUCCEEDED }],
    });
    assert.deepEqual(many.body, { results: [{ id: other, status: 200 }] });
    await api.stop();
  });
});
