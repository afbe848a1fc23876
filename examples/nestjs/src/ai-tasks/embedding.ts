/** Whether the result of a `text_embedding` task is one: a list of numbers, or an object that has it as `embedding`. */

/** What is wrong with `result`, in words for whoever sent it; null where nothing is. */
export function embeddingFault(result: unknown): string | null {
  if (Array.isArray(result)) {
    return vectorFault('result', result);
  }
  if (typeof result === 'object' && result !== null && 'embedding' in result) {
    return vectorFault('result.embedding', result.embedding);
  }
  return 'result: an embedding is a list of numbers, or an object with a list of numbers as its "embedding"';
}

/** The numbers of an embedding, in whichever of its two shapes it came. */
export function embeddingOf(result: unknown): number[] {
  const vector: unknown =
    typeof result === 'object' && result !== null && 'embedding' in result
      ? result.embedding
      : result;
  return vector as number[];
}

function vectorFault(name: string, vector: unknown): string | null {
  if (!Array.isArray(vector) || vector.length === 0) {
    return `${name}: must be a list of numbers, with at least one`;
  }
  const index = vector.findIndex((number) => typeof number !== 'number');
  return index < 0
    ? null
    : `${name}: must hold nothing but numbers; the one at index ${index} is none`;
}
