import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, test } from 'node:test';
import { connect, disconnect, model } from 'mongoose';
import sift from 'sift';
import { STATES, isClaimable } from '../src/ai-tasks/ai-task';
import {
  AiTaskSchema,
  StoredAiTask,
  changedFacts,
  claimable,
  fromStored,
  newStoredTask,
  objectIds,
} from '../src/ai-tasks-mongoose/ai-task.schema';
import { MongooseAiTaskStore } from '../src/ai-tasks-mongoose/mongoose-ai-task-store';
import { assertHas } from './api';
import { storeContract } from './store-contract';

const NOW = new Date('2026-01-01T12:00:00Z');
const Tasks = model(StoredAiTask.name, AiTaskSchema);

test('a task is the same after its way through the schema', () => {
  const stored = newStoredTask(
    {
      type: 't',
      content: 'x',
      priority: 'high',
      callbackParams: { a: { b: 1 } },
    },
    NOW,
  );
  const document = new Tasks({
    ...stored,
    lease: { worker: 'w', expiresAt: NOW, claim: 'c' },
  });
  assert.equal(document.validateSync(), undefined);
  const task = fromStored(document.toObject());
  assertHas(task, {
    state: 'pending',
    callbackParams: { a: { b: 1 } },
    callback: { step: 'none' },
  });
  assert.deepEqual(task.lease, { worker: 'w', expiresAt: NOW });
  assert.equal(task.id, stored._id.toHexString());
  assert.equal('_id' in task || 'rank' in task, false);
});

test('the database finds what a worker may have by the same rule', () => {
  const task = newStoredTask({ type: 't', content: 'x' }, NOW);
  const leases = [
    null,
    ...[-1, 0, 1].map((ms) => ({
      worker: 'w',
      claim: 'c',
      expiresAt: new Date(NOW.getTime() + ms),
    })),
  ];
  const tasks = STATES.flatMap((state) =>
    leases.map((lease) => ({ ...task, state, lease })),
  );
  const found = tasks.filter(sift(claimable(NOW)));
  assert.deepEqual(
    found,
    tasks.filter((stored) => isClaimable(fromStored(stored), NOW)),
  );
  assert.equal(found.length, leases.length + 2);
});

test('priorities are sorted by as numbers', () => {
  assert.equal(
    newStoredTask({ type: 't', content: 'x', priority: 'critical' }, NOW).rank,
    0,
  );
});

test('a report changes what a report may change', () => {
  const facts = changedFacts(
    fromStored(newStoredTask({ type: 't', content: 'x' }, NOW)),
  );
  assert.deepEqual(Object.keys(facts).sort(), [
    'callback',
    'error',
    'result',
    'state',
    'updatedAt',
    'version',
  ]);
});

test('only what can be an id is asked for', () => {
  assert.deepEqual(
    objectIds(['0'.repeat(24), 'x', '', '0'.repeat(25)]).map(String),
    ['0'.repeat(24)],
  );
});

if (process.env.MONGODB_URL) {
  storeContract('in MongoDB', async () => {
    await disconnect();
    await connect(process.env.MONGODB_URL!, {
      dbName: `ai-tasks-${randomUUID()}`,
    });
    return new MongooseAiTaskStore(Tasks);
  });
  after(() => disconnect());
} else {
  test('in MongoDB', {
    skip: 'MONGODB_URL names a server that these tests may use',
  });
}
