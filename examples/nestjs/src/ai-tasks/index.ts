export type { AiTask, NewAiTask } from './ai-task';
export { AiTasksModule } from './ai-tasks.module';
export type { AiTasksOptions } from './ai-tasks.options';
export { AiTasksService } from './ai-tasks.service';
export { BearerGuard } from './auth/bearer.guard';
export { RequiredScope } from './auth/required-scope';
export {
  AiTaskCallback,
  type FinishedAiTask,
} from './callbacks/ai-task-callback';
export { embeddingOf } from './embedding';
export { AiTaskStore } from './store/ai-task-store';
export { InMemoryAiTaskStore } from './store/in-memory-ai-task-store';

/** What `app.useBodyParser('json', { limit })` needs for bulk reports; 100 kB, the default, is enough for single ones. */
export const BODY_LIMIT = '4mb';
