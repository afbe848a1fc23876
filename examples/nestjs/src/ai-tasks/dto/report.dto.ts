import {
  Allow,
  ArrayMaxSize,
  IsArray,
  IsIn,
  IsOptional,
  IsString,
  MaxLength,
  IsNotEmpty,
} from 'class-validator';
import { type AiTaskState, STATES } from '../ai-task';

export const MOST_REPORTS = 1_000;

/** The body of `PATCH /api/ai-tasks/{id}`. Which result goes with which state, and type, is looked at later. */
export class ReportDto {
  @IsIn(STATES)
  state!: AiTaskState;

  @Allow()
  result?: unknown;

  @IsOptional()
  @IsString()
  @MaxLength(10_000)
  error?: string | null;
}

/** One of the `results` of a bulk report. */
export class IdentifiedReportDto extends ReportDto {
  @IsString()
  @IsNotEmpty()
  @MaxLength(200)
  id!: string;
}

/** The body of `PATCH /api/ai-tasks`. Each of the results is looked at by itself, so that a bad one spoils no other. */
export class BulkReportDto {
  @IsArray()
  @ArrayMaxSize(MOST_REPORTS)
  results!: unknown[];
}
