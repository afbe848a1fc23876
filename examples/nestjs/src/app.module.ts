import { Module } from '@nestjs/common';
import { MongooseModule } from '@nestjs/mongoose';
import { AiTasksModule, InMemoryAiTaskStore } from './ai-tasks';
import { AiTaskSchema, StoredAiTask } from './ai-tasks-mongoose/ai-task.schema';
import { MongooseAiTaskStore } from './ai-tasks-mongoose/mongoose-ai-task-store';
import { DocumentsModule } from './documents/documents.module';
import { aiTasksOptions } from './environment';

/** MongoDB where there is one; otherwise the tasks are forgotten when the process ends. */
const kept = process.env.MONGODB_URL
  ? {
      store: MongooseAiTaskStore,
      imports: [
        MongooseModule.forRoot(process.env.MONGODB_URL),
        MongooseModule.forFeature([
          { name: StoredAiTask.name, schema: AiTaskSchema },
        ]),
      ],
    }
  : { store: InMemoryAiTaskStore };

@Module({
  imports: [
    AiTasksModule.forRootAsync({
      ...kept,
      useFactory: () => aiTasksOptions(process.env),
    }),
    DocumentsModule,
  ],
})
export class AppModule {}
