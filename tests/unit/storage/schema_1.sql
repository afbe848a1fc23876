-- The schema as it was first, with one task and one booking in it.
CREATE TABLE limit_buckets (
  strategy TEXT NOT NULL,
  window TEXT NOT NULL,
  bucket DOUBLE NOT NULL,
  used BIGINT NOT NULL,
  PRIMARY KEY (strategy, window, bucket)
);
CREATE TABLE meta (
  "key" TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY ("key")
);
CREATE TABLE tasks (
  id TEXT NOT NULL,
  type TEXT NOT NULL,
  state TEXT NOT NULL,
  priority BIGINT NOT NULL,
  created_at DOUBLE NOT NULL,
  batch_key TEXT NOT NULL,
  correlation_id TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  deliveries INTEGER NOT NULL,
  not_before DOUBLE NOT NULL,
  accepted_at DOUBLE NOT NULL,
  settled_at DOUBLE,
  reported_at DOUBLE,
  reported_mark BIGINT,
  outcome TEXT,
  model TEXT,
  provider TEXT,
  tokens BIGINT,
  dimensions INTEGER,
  error TEXT,
  reason TEXT,
  content BLOB,
  result BLOB,
  PRIMARY KEY (id)
);
CREATE INDEX tasks_by_state ON tasks (state, not_before, priority, created_at, id, settled_at) WHERE state <> 'reported';
CREATE INDEX tasks_ready ON tasks (batch_key, priority, created_at, id) WHERE state = 'due' AND not_before = 0;
CREATE INDEX tasks_reported ON tasks (reported_at) WHERE state = 'reported';
CREATE INDEX tasks_unreported ON tasks (settled_at, id) WHERE state IN ('succeeded', 'failed') AND not_before = 0;
CREATE TABLE schema_version (
  number INTEGER NOT NULL
);
INSERT INTO schema_version VALUES (1);
INSERT INTO meta VALUES ('reports', '7');
INSERT INTO limit_buckets VALUES ('rolling', 'minute', 60.0, 5);
INSERT INTO tasks (id, type, state, priority, created_at, batch_key, correlation_id, attempts, deliveries, not_before,
                   accepted_at, content)
VALUES ('a', 'text_embedding', 'due', 2, 1.0, 'nomic-embed-text', 'c', 0, 0, 0, 2.0, CAST('"hello"' AS BLOB));
