/**
 * The module alone, for the tests that are the same for every Task API: with a token that is good, and routes by which
 * a test makes tasks, lets time pass, and begins anew. The clock stands still otherwise.
 */

import 'reflect-metadata';
import { mock } from 'node:test';
import { Body, Controller, HttpCode, Module, Post } from '@nestjs/common';
import type { NestExpressApplication } from '@nestjs/platform-express';
import { Test } from '@nestjs/testing';
import {
  AiTaskStore,
  AiTasksModule,
  AiTasksService,
  BODY_LIMIT,
  InMemoryAiTaskStore,
  type NewAiTask,
} from '../../src/ai-tasks';
import { AUDIENCE, Issuer } from '../issuer';

const TOKEN_SECONDS = 86_400;

let store = new InMemoryAiTaskStore();

/** Whatever store is the current one. */
const current = new Proxy({} as AiTaskStore, {
  get: (_, name) =>
    name in store ? Reflect.get(store, name).bind(store) : undefined,
});

@Controller('test')
class TestController {
  constructor(private readonly tasks: AiTasksService) {}

  @Post('tasks')
  async create(@Body() tasks: object[]): Promise<{ ids: string[] }> {
    return {
      ids: (await this.tasks.create(tasks as NewAiTask[])).map(({ id }) => id),
    };
  }

  @Post('time')
  @HttpCode(204)
  pass(@Body() { seconds }: { seconds: number }): void {
    mock.timers.tick(1_000 * seconds);
  }

  @Post('beginning')
  @HttpCode(204)
  begin(): void {
    store = new InMemoryAiTaskStore();
  }
}

@Module({ controllers: [TestController] })
class TestModule {}

async function main(): Promise<void> {
  const issuer = await Issuer.started();
  const testing = Test.createTestingModule({
    imports: [
      AiTasksModule.forRoot({ issuer: issuer.url, audience: AUDIENCE }),
      TestModule,
    ],
  });
  const module = await testing
    .overrideProvider(AiTaskStore)
    .useValue(current)
    .compile();
  const app = module.createNestApplication<NestExpressApplication>({
    logger: ['fatal'],
  });
  app.useBodyParser('json', { limit: BODY_LIMIT });
  await app.listen(0, '127.0.0.1');
  mock.timers.enable({ apis: ['Date'], now: Date.now() });
  const token = await issuer.token({ seconds: TOKEN_SECONDS });
  process.stdout.write(
    `${JSON.stringify({ event: 'listening', url: await app.getUrl(), token })}\n`,
  );
}

void main();
