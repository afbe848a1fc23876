/** What the application and the workers want of tasks. */

import {
  ConflictException,
  HttpException,
  Inject,
  Injectable,
  InternalServerErrorException,
  Logger,
  NotFoundException,
  ServiceUnavailableException,
  UnprocessableEntityException,
} from '@nestjs/common';
import {
  type AiTask,
  type NewAiTask,
  type Report,
  callbackBegun,
  callbackEnded,
  changed,
  isFinished,
} from './ai-task';
import { AI_TASKS_OPTIONS, type AiTasksOptions } from './ai-tasks.options';
import type {
  AiTaskCallbackMethod,
  FinishedAiTask,
} from './callbacks/ai-task-callback';
import { CallbackRegistry } from './callbacks/callback-registry';
import type { ClaimDto } from './dto/claim.dto';
import { IdentifiedReportDto } from './dto/report.dto';
import { validated } from './dto/validated';
import { embeddingFault } from './embedding';
import { AiTaskStore } from './store/ai-task-store';

export const MOST_TASKS = 50_000;

/** How one of many reports went: the status that the single one would have been answered with. */
export interface ReportAnswer {
  id: string | null;
  status: number;
  error?: string;
}

@Injectable()
export class AiTasksService {
  private readonly log = new Logger(AiTasksService.name);

  constructor(
    private readonly store: AiTaskStore,
    private readonly callbacks: CallbackRegistry,
    @Inject(AI_TASKS_OPTIONS) private readonly options: AiTasksOptions,
  ) {}

  /** Has something done: this is what the application calls. Answers the tasks as they are kept. */
  async create(tasks: NewAiTask[]): Promise<AiTask[]> {
    tasks.forEach(
      (task) =>
        task.callbackRoute === undefined || this.callbackOf(task.callbackRoute),
    );
    return this.store.add(tasks, new Date());
  }

  async pending(limit: number): Promise<AiTask[]> {
    return this.store.pending(Math.min(limit, MOST_TASKS), new Date());
  }

  async claim({
    limit,
    leaseSeconds,
    worker,
    renew = [],
  }: ClaimDto): Promise<AiTask[]> {
    const now = new Date();
    const expiresAt = new Date(now.getTime() + 1_000 * leaseSeconds);
    if (renew.length > 0) {
      await this.store.renew({ ids: renew, worker, now, expiresAt });
    }
    return limit > 0
      ? this.store.claim({
          limit: Math.min(limit, MOST_TASKS),
          worker,
          now,
          expiresAt,
        })
      : [];
  }

  /** Takes a report, and has the task's callback run. Throws the HttpException that is to be the answer. */
  async report(id: string, report: Report): Promise<AiTask> {
    const task = await this.standing(id, report);
    return isFinished(task) ? this.calledBack(task) : task;
  }

  /** The same for many: each is answered as if it had come alone, and those for one task in their order. */
  async reportAll(reports: unknown[]): Promise<ReportAnswer[]> {
    const last = new Map<unknown, Promise<unknown>>();
    return Promise.all(
      reports.map((report) => {
        const { id } = Object(report) as { id?: unknown };
        const answer = Promise.resolve(last.get(id)).then(() =>
          this.answered(report),
        );
        last.set(id, answer);
        return answer;
      }),
    );
  }

  private async answered(given: unknown): Promise<ReportAnswer> {
    const { id = null } = Object(given) as { id?: unknown };
    const answer = { id: typeof id === 'string' ? id : null };
    try {
      const report = await validated(IdentifiedReportDto, given);
      await this.report(report.id, report);
      return { ...answer, status: 200 };
    } catch (error) {
      return { ...answer, ...problem(error) };
    }
  }

  /** The task after a report, decided again whenever somebody else was quicker. */
  private async standing(id: string, report: Report): Promise<AiTask> {
    for (;;) {
      const [task] = await this.store.find([id]);
      if (task === undefined) {
        throw new NotFoundException(`There is no task ${id}.`);
      }
      checkFits(task, report);
      const change = changed(task, report, new Date());
      if (change.kind === 'conflict') {
        throw new ConflictException(change.reason);
      }
      if (change.kind === 'same') {
        return task;
      }
      if (await this.store.replace(change.task)) {
        return change.task;
      }
    }
  }

  private async calledBack(task: AiTask): Promise<AiTask> {
    if (task.callback.step === 'none' || task.callback.step === 'done') {
      return task;
    }
    const begun = await this.begunCallback(task);
    try {
      await this.callbackOf(task.callbackRoute!)(finished(task));
    } catch (error) {
      await this.store.replace(callbackEnded(begun, 'due', new Date()));
      this.log.error(
        `Callback ${task.callbackRoute} of task ${task.id}: ${String(error)}`,
      );
      throw new InternalServerErrorException(
        'The outcome is kept, but its callback has failed; send it again.',
      );
    }
    const done = callbackEnded(begun, 'done', new Date());
    await this.store.replace(done);
    return done;
  }

  private async begunCallback(task: AiTask): Promise<AiTask> {
    const now = new Date();
    const until = new Date(
      now.getTime() + 1_000 * (this.options.callbackSeconds ?? 60),
    );
    const begun = callbackBegun(task, now, until);
    if (begun === null || !(await this.store.replace(begun))) {
      throw new ServiceUnavailableException(
        'The outcome is kept; its callback is running.',
      );
    }
    return begun;
  }

  private callbackOf(route: string): AiTaskCallbackMethod {
    const callback = this.callbacks.find(route);
    if (callback === undefined) {
      throw new InternalServerErrorException(
        `No method carries @AiTaskCallback('${route}').`,
      );
    }
    return callback;
  }
}

/** Throws where the report does not go together, or not with the task. */
function checkFits(
  task: AiTask,
  { state, result = null, error = null }: Report,
): void {
  const faults = [
    state === 'succeeded' &&
      result === null &&
      'result: a task that succeeded has one',
    state !== 'succeeded' &&
      result !== null &&
      `result: must be null or absent with the state ${state}`,
    state !== 'failed' &&
      error !== null &&
      `error: must be null or absent with the state ${state}`,
    state === 'succeeded' &&
      result !== null &&
      task.type === 'text_embedding' &&
      embeddingFault(result),
  ].filter((fault) => typeof fault === 'string');
  if (faults.length > 0) {
    throw new UnprocessableEntityException(faults.join('; '));
  }
}

function finished({
  id,
  type,
  state,
  content,
  callbackParams = {},
  result,
  error,
}: AiTask): FinishedAiTask {
  return {
    id,
    type,
    state: state as FinishedAiTask['state'],
    content,
    callbackParams,
    result,
    error,
  };
}

function problem(error: unknown): { status: number; error: string } {
  return error instanceof HttpException
    ? { status: error.getStatus(), error: error.message }
    : { status: 500, error: 'The report could not be taken; send it again.' };
}
