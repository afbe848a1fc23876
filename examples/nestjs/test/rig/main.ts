/**
 * The example as two processes behind one address, with the database in a third: for tests of restarts and faults.
 *
 * SIGHUP restarts the processes one after the other, the new one before the old one goes. SIGUSR2 kills one of them.
 * One of `REQUESTS_PER_FAULT` requests fails, and one of `WRITES_PER_FAILURE` callbacks; the answers of the first
 * `LOST_CLAIMS` claims are lost. Each line of the output is one event as JSON.
 */

import 'reflect-metadata';
import cluster, { type Worker } from 'node:cluster';
import { once } from 'node:events';
import type { Server } from 'node:http';
import type { NestExpressApplication } from '@nestjs/platform-express';
import { Test } from '@nestjs/testing';
import {
  AiTaskStore,
  BODY_LIMIT,
  InMemoryAiTaskStore,
} from '../../src/ai-tasks';
import { AI_TASKS_OPTIONS } from '../../src/ai-tasks/ai-tasks.options';
import { AppModule } from '../../src/app.module';
import {
  type Document,
  DocumentStore,
  InMemoryDocumentStore,
} from '../../src/documents/document-store';
import { aiTasksOptions, port } from '../../src/environment';
import { Faults, faulty } from './faults';
import { receiveAnswers, share, shared } from './shared';

const PROCESSES = 2;
const CALLBACK_SECONDS = 2;

const WRITES_PER_PROGRESS = 100;

/** Says how far it is. Every so many writes one fails; it can be repeated. */
class WatchedDocumentStore extends InMemoryDocumentStore {
  private attempts = 0;
  private readonly written = new Set<string>();

  override async write(
    id: string,
    outcome: Pick<Document, 'embedding' | 'problem'>,
  ): Promise<void> {
    this.attempts += 1;
    if (
      this.attempts % Number(process.env.WRITES_PER_FAILURE ?? Infinity) ===
      0
    ) {
      say({ event: 'fault', name: 'callback' });
      throw new Error('the documents cannot be written now');
    }
    await super.write(id, outcome);
    if (
      !this.written.has(id) &&
      this.written.add(id).size % WRITES_PER_PROGRESS === 0
    ) {
      say({ event: 'progress', documents: this.written.size });
    }
  }
}

async function primary(): Promise<void> {
  const { REQUESTS_PER_FAULT = Infinity, LOST_CLAIMS = 0 } = process.env;
  const faults = new Faults(
    Number(REQUESTS_PER_FAULT),
    Number(LOST_CLAIMS),
    (name) => say({ event: 'fault', name }),
  );
  share({
    tasks: new InMemoryAiTaskStore(),
    documents: new WatchedDocumentStore(),
    faults,
  });
  cluster.setupPrimary({ serialization: 'advanced' });
  const workers: Worker[] = [];
  for (let index = 0; index < PROCESSES; index += 1) {
    workers.push(await started());
  }
  process.on('SIGHUP', () => void restarted(workers));
  process.on('SIGUSR2', () => void killed(workers));
  process.on('SIGTERM', () => process.exit());
  say({ event: 'all listening' });
}

async function started(): Promise<Worker> {
  const worker = cluster.fork();
  worker.on('message', (message) => 'event' in message && say(message));
  await once(worker, 'listening');
  return worker;
}

async function restarted(workers: Worker[]): Promise<void> {
  for (const [index, old] of workers.entries()) {
    workers[index] = await started();
    old.send({ stop: true });
    await once(old, 'exit');
  }
  say({ event: 'restarted' });
}

async function killed(workers: Worker[]): Promise<void> {
  workers[0]!.process.kill('SIGKILL');
  workers[0] = await started();
  say({ event: 'killed' });
}

async function worker(): Promise<void> {
  receiveAnswers();
  const testing = Test.createTestingModule({ imports: [AppModule] })
    .overrideProvider(AiTaskStore)
    .useValue(shared<AiTaskStore>('tasks'))
    .overrideProvider(DocumentStore)
    .useValue(shared<DocumentStore>('documents'))
    .overrideProvider(AI_TASKS_OPTIONS)
    .useValue({
      ...aiTasksOptions(process.env),
      callbackSeconds: CALLBACK_SECONDS,
    });
  const app = (
    await testing.compile()
  ).createNestApplication<NestExpressApplication>({ logger: ['fatal'] });
  app.useBodyParser('json', { limit: BODY_LIMIT });
  app.use(faulty(shared<Faults>('faults')));
  await app.listen(port(process.env), '127.0.0.1');
  process.send!({ event: 'listening', url: await app.getUrl() });
  process.on(
    'message',
    (message: object) => 'stop' in message && void stopped(app),
  );
}

/** Ends what has begun, and takes nothing new: also not on connections that their owner keeps. */
async function stopped(app: NestExpressApplication): Promise<void> {
  const server = app.getHttpServer() as Server;
  const closing = setInterval(() => server.closeIdleConnections(), 10);
  await app.close();
  clearInterval(closing);
  process.exit();
}

function say(line: object): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

void (cluster.isPrimary ? primary() : worker());
