import { Type } from 'class-transformer';
import { IsInt, Min } from 'class-validator';

/** The query of `GET /api/ai-tasks/pending`. */
export class PendingDto {
  @Type(() => Number)
  @IsInt()
  @Min(1)
  limit: number = 100;
}
