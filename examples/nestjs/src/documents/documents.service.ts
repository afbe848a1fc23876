/** Where the application and its AI tasks meet: a task is created here, and its outcome arrives here. */

import { Injectable } from '@nestjs/common';
import {
  AiTaskCallback,
  AiTasksService,
  type FinishedAiTask,
  embeddingOf,
} from '../ai-tasks';
import { type Document, DocumentStore } from './document-store';

const UPDATE_EMBEDDING = 'verification_update_embedding';

@Injectable()
export class DocumentsService {
  constructor(
    private readonly documents: DocumentStore,
    private readonly aiTasks: AiTasksService,
  ) {}

  async create(texts: string[], model: string): Promise<Document[]> {
    const documents = await this.documents.add(texts);
    await this.aiTasks.create(
      documents.map(({ id, text }) => ({
        type: 'text_embedding',
        content: { text, model },
        callbackRoute: UPDATE_EMBEDDING,
        callbackParams: { documentId: id },
      })),
    );
    return documents;
  }

  find(id: string): Promise<Document | null> {
    return this.documents.find(id);
  }

  page(after: number, limit: number): Promise<Document[]> {
    return this.documents.page(after, limit);
  }

  /** May run twice for one outcome, when the process dies in between: writing the same again does no harm. */
  @AiTaskCallback(UPDATE_EMBEDDING)
  async updateEmbedding({
    state,
    callbackParams,
    result,
    error,
  }: FinishedAiTask): Promise<void> {
    const id = String(callbackParams.documentId);
    const outcome =
      state === 'succeeded'
        ? { embedding: embeddingOf(result), problem: null }
        : { embedding: null, problem: error };
    await this.documents.write(id, outcome);
  }
}
