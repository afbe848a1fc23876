import { Module } from '@nestjs/common';
import { DocumentStore, InMemoryDocumentStore } from './document-store';
import { DocumentsController } from './documents.controller';
import { DocumentsService } from './documents.service';

@Module({
  controllers: [DocumentsController],
  providers: [
    DocumentsService,
    { provide: DocumentStore, useClass: InMemoryDocumentStore },
  ],
})
export class DocumentsModule {}
