/** The module in an application of its own on a real socket, with callbacks that do what a test wants. */

import 'reflect-metadata';
import assert from 'node:assert/strict';
import { Injectable, Module, type PipeTransform } from '@nestjs/common';
import type { NestExpressApplication } from '@nestjs/platform-express';
import { Test } from '@nestjs/testing';
import {
  AiTaskCallback,
  AiTasksModule,
  type AiTasksOptions,
  AiTasksService,
  BODY_LIMIT,
  type FinishedAiTask,
  type NewAiTask,
} from '../src/ai-tasks';
import { AUDIENCE, Issuer } from './issuer';

/** A callback that writes down what it is told, and fails or waits when it is told to. */
@Injectable()
export class Callbacks {
  readonly seen: FinishedAiTask[] = [];
  failures = 0;
  hold: Promise<void> = Promise.resolve();

  @AiTaskCallback('note')
  async note(task: FinishedAiTask): Promise<void> {
    this.seen.push(task);
    await this.hold;
    if (this.failures > 0) {
      this.failures -= 1;
      throw new Error('not now');
    }
  }
}

@Module({ providers: [Callbacks] })
class CallbacksModule {}

export interface Answer {
  status: number;
  headers: Headers;
  body: any; // eslint-disable-line -- what a test expects of it, it says itself
}

export class Api {
  private constructor(
    readonly issuer: Issuer,
    private readonly app: NestExpressApplication,
    private readonly url: string,
    readonly token: string,
  ) {}

  static async started(
    options: Partial<AiTasksOptions> = {},
    issuer?: Issuer,
    pipes: PipeTransform[] = [],
  ): Promise<Api> {
    issuer ??= await Issuer.started();
    const configured = { issuer: issuer.url, audience: AUDIENCE, ...options };
    const testing = Test.createTestingModule({
      imports: [AiTasksModule.forRoot(configured), CallbacksModule],
    });
    const app = (
      await testing.compile()
    ).createNestApplication<NestExpressApplication>({ logger: false });
    app.useBodyParser('json', { limit: BODY_LIMIT });
    app.useGlobalPipes(...pipes);
    await app.listen(0, '127.0.0.1');
    return new Api(issuer, app, await app.getUrl(), await issuer.token());
  }

  get callbacks(): Callbacks {
    return this.app.get(Callbacks, { strict: false });
  }

  async add(...tasks: Partial<NewAiTask>[]): Promise<string[]> {
    const service = this.app.get(AiTasksService, { strict: false });
    const added = await service.create(
      tasks.map((task) => ({
        type: 'text_embedding',
        content: { text: 'x' },
        ...task,
      })),
    );
    return added.map(({ id }) => id);
  }

  async ask(
    method: string,
    path: string,
    body?: unknown,
    token: string | null = this.token,
  ): Promise<Answer> {
    const response = await fetch(`${this.url}${path}`, {
      method,
      headers: {
        'Content-Type': 'application/json',
        ...(token !== null && { Authorization: `Bearer ${token}` }),
      },
      body:
        typeof body === 'string' || body === undefined
          ? body
          : JSON.stringify(body),
    });
    const text = await response.text();
    return {
      status: response.status,
      headers: response.headers,
      body: text ? JSON.parse(text) : undefined,
    };
  }

  pending(query = ''): Promise<Answer> {
    return this.ask('GET', `/api/ai-tasks/pending${query}`);
  }

  report(id: string, report: unknown): Promise<Answer> {
    return this.ask('PATCH', `/api/ai-tasks/${id}`, report);
  }

  claim(claim: unknown): Promise<Answer> {
    return this.ask('POST', '/api/ai-tasks/claim', claim);
  }

  async stop(): Promise<void> {
    this.issuer.stop();
    await this.app.close();
  }
}

export const SUCCEEDED = { state: 'succeeded', result: [0.5, -0.25, 1] };

export function ids(answer: Answer): string[] {
  return answer.body.map((task: { _id: string }) => task._id);
}

/** Of `actual` only what is expected of it. */
export function assertHas(actual: object | undefined, expected: object): void {
  const names = Object.keys(expected);
  const picked = Object.fromEntries(
    names.map((name) => [
      name,
      (actual as Record<string, unknown> | undefined)?.[name],
    ]),
  );
  assert.deepEqual(picked, expected);
}
