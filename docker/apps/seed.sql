-- Rows for schema.sql: the same on every run. Times are spread over five years, so that both halves of
-- every daylight-saving year occur, and carry microseconds.
BEGIN;
SET LOCAL TIME ZONE 'UTC';

INSERT INTO users (id, name, created_at)
SELECT n, (ARRAY['Ada', 'Bjørn', 'Chloé', 'Dao', 'Eszter', 'Farid', 'Günther', 'Hana', 'Íris', 'O''Neil'])[1 + n % 10] || ' ' || n,
       timestamptz '2020-01-01' + n * interval '13:07:11.000013'
FROM generate_series(1, 200) n;

INSERT INTO teams (id, name)
SELECT n, 'Kitchen ' || n FROM generate_series(1, 40) n;

-- Every fifth user is in no team, the others are in up to three.
INSERT INTO memberships (user_id, team_id)
SELECT DISTINCT u, 1 + (u * 7 + k * 11) % 40
FROM generate_series(1, 200) u, generate_series(1, 3) k
WHERE u % 5 >= k
ORDER BY 1, 2;

-- Tokens that can be computed, for a demonstration; and one that has expired for each user.
INSERT INTO sessions (token, user_id, expires_at)
SELECT md5('session ' || n), n, timestamptz '2100-01-01' FROM generate_series(1, 200) n
UNION ALL
SELECT md5('expired ' || n), n, timestamptz '2020-01-01' FROM generate_series(1, 200) n;

-- Every third recipe is a team's; every 97th is long (about 40 kB).
INSERT INTO recipes (id, owner_user_id, owner_team_id, title, description, servings, created_at)
SELECT n,
       CASE WHEN n % 3 <> 0 THEN 1 + (n * 37) % 200 END,
       CASE WHEN n % 3 = 0 THEN 1 + (n * 17) % 40 END,
       (ARRAY['Crème brûlée', 'Ramen', 'Pierogi', 'Mole "negro"', 'Dal', 'Köttbullar', 'Şakşuka', '寿司'])[1 + n % 8] || ' no. ' || n,
       CASE WHEN n % 97 = 0 THEN repeat('A long story of recipe ' || n || '. ', 1500) ELSE 'What recipe ' || n || ' is about: ' || md5('d' || n) END,
       1 + n % 8,
       timestamptz '2021-01-01' + n * interval '21:53:07.000231'
FROM generate_series(1, 3000) n;

INSERT INTO ingredients (recipe_id, position, name, quantity, unit)
SELECT r, p,
       (ARRAY['flour', 'sugar', 'butter', 'jalapeño', 'salt', 'crème fraîche', 'rice', 'miso'])[1 + (r + p * 3) % 8],
       CASE WHEN (r + p) % 7 <> 0 THEN ((r * 31 + p * 17) % 997) / 8.0 + (r % 10) / 10.0 END,
       (ARRAY['g', 'ml', 'cup', NULL])[1 + (r + p) % 4]
FROM generate_series(1, 3000) r, generate_series(1, 10) p
WHERE p <= 4 + r % 7
ORDER BY 1, 2;

INSERT INTO sections (id, recipe_id, position, title)
SELECT r * 3 + p, r, p, (ARRAY['Prepare', 'Cook', 'Serve'])[p] || ' ' || r
FROM generate_series(1, 3000) r, generate_series(1, 3) p
WHERE p <= 1 + r % 3;

INSERT INTO steps (recipe_id, section_id, position, body, minutes)
SELECT r, r * 3 + 1 + (p - 1) % (1 + r % 3), p, 'Step ' || p || ' of ' || r || ': ' || md5(r || ' ' || p), 1 + (r + p) % 45
FROM generate_series(1, 3000) r, generate_series(1, 8) p
WHERE p <= 3 + r % 6
ORDER BY 1, 3;

-- No note, one, two or three.
INSERT INTO notes (id, recipe_id, author_id, body, created_at)
SELECT r * 3 + p, r, 1 + (r * 11 + p * 53) % 200, 'Note ' || p || ' on ' || r || ': it''s ' || md5('n' || r * 3 + p),
       timestamptz '2022-03-01' + (r * 3 + p) * interval '05:31:17.000007'
FROM generate_series(1, 3000) r, generate_series(0, 2) p
WHERE p < r % 4;

INSERT INTO reactions (recipe_id, note_id, user_id, emoji, created_at)
SELECT notes.recipe_id, notes.id, 1 + (notes.id * 7 + k * 41) % 200, (ARRAY['👍', '❤️', '😋', '🔥'])[1 + (notes.id + k) % 4],
       notes.created_at + k * interval '00:17:00.5'
FROM notes, generate_series(1, 4) k
WHERE k <= notes.id % 5
ORDER BY notes.id, k;

INSERT INTO timeline_events (recipe_id, kind, happened_at)
SELECT r, (ARRAY['created', 'cooked', 'shared', 'edited', 'printed', 'starred'])[p],
       timestamptz '2021-01-01' + r * interval '21:53:07.000231' + (p - 1) * interval '1201:10:03.25'
FROM generate_series(1, 3000) r, generate_series(1, 6) p
WHERE p <= 2 + r % 5
ORDER BY 1, 3;

SELECT setval(pg_get_serial_sequence(t, 'id'), 10000) FROM unnest(ARRAY['users', 'teams', 'recipes', 'sections', 'notes']) t;

COMMIT;
ANALYZE;
