/** The application's own documents: what the embeddings are for. */

export interface Document {
  id: string;
  text: string;
  embedding: number[] | null;
  /** Why there is no embedding, where there cannot be one. */
  problem: string | null;
  /** How often an outcome has been written here. */
  writes: number;
}

export abstract class DocumentStore {
  abstract add(texts: string[]): Promise<Document[]>;
  abstract find(id: string): Promise<Document | null>;
  abstract page(after: number, limit: number): Promise<Document[]>;
  /** Throws where there is no such document. */
  abstract write(
    id: string,
    outcome: Pick<Document, 'embedding' | 'problem'>,
  ): Promise<void>;
}

export class InMemoryDocumentStore extends DocumentStore {
  private readonly documents = new Map<string, Document>();

  override async add(texts: string[]): Promise<Document[]> {
    return texts.map((text) => {
      const id = `doc-${this.documents.size + 1}`;
      const document = { id, text, embedding: null, problem: null, writes: 0 };
      this.documents.set(id, document);
      return document;
    });
  }

  override async find(id: string): Promise<Document | null> {
    return this.documents.get(id) ?? null;
  }

  override async page(after: number, limit: number): Promise<Document[]> {
    return [...this.documents.values()].slice(after, after + limit);
  }

  override async write(
    id: string,
    outcome: Pick<Document, 'embedding' | 'problem'>,
  ): Promise<void> {
    const document = this.documents.get(id);
    if (document === undefined) {
      throw new Error(`There is no document ${id}`);
    }
    this.documents.set(id, {
      ...document,
      ...outcome,
      writes: document.writes + 1,
    });
  }
}
