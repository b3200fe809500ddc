//! What is asked. A query's parameters are in its comment.

/// Token.
pub const SELECT_USER: &str = "
    SELECT users.id, users.name FROM sessions JOIN users ON users.id = sessions.user_id
    WHERE sessions.token = $1 AND sessions.expires_at > now()";
/// User.
pub const SELECT_TEAMS: &str = "SELECT team_id FROM memberships WHERE user_id = $1";
/// User, teams, and the recipe or NULL.
pub const SELECT_RECIPE: &str = "
    SELECT id, owner_user_id, owner_team_id, title, description, servings, reaction_count,
           created_at::text, current_setting('TimeZone') AS time_zone
    FROM recipes
    WHERE (owner_user_id = $1 OR owner_team_id = ANY ($2::bigint[])) AND ($3::bigint IS NULL OR id = $3)
    ORDER BY random() LIMIT 1";

// Recipe.
pub const SELECT_INGREDIENTS: &str =
    "SELECT id, position, name, quantity, unit FROM ingredients WHERE recipe_id = $1 ORDER BY position";
pub const SELECT_SECTIONS: &str = "SELECT id, position, title FROM sections WHERE recipe_id = $1 ORDER BY position";
pub const SELECT_STEPS: &str =
    "SELECT id, section_id, position, body, minutes FROM steps WHERE recipe_id = $1 ORDER BY position";
pub const SELECT_NOTES: &str = "
    SELECT notes.id, notes.author_id, notes.body, notes.created_at::text,
           reactions.id AS reaction_id, reactions.user_id, reactions.emoji, reactions.created_at::text AS reacted_at
    FROM notes LEFT JOIN reactions ON reactions.note_id = notes.id
    WHERE notes.recipe_id = $1 ORDER BY notes.id, reactions.id";
pub const SELECT_EVENTS: &str =
    "SELECT id, kind, happened_at::text FROM timeline_events WHERE recipe_id = $1 ORDER BY id";

/// Token, and the recipe or NULL. Finds the user and its teams by itself, so that it needn't wait for theirs.
pub const SELECT_RECIPE_BY_TOKEN: &str = "
    SELECT id, owner_user_id, owner_team_id, title, description, servings, reaction_count,
           created_at::text, current_setting('TimeZone') AS time_zone
    FROM recipes
    WHERE (owner_user_id = (SELECT user_id FROM sessions WHERE token = $1 AND expires_at > now())
           OR owner_team_id = ANY (ARRAY(
               SELECT team_id FROM memberships JOIN sessions USING (user_id) WHERE token = $1 AND expires_at > now())))
        AND ($2::bigint IS NULL OR id = $2)
    ORDER BY random() LIMIT 1";

/// Token, and the recipe or NULL. No row for an unknown session; else one, the reply's text or NULL.
pub const SELECT_REPLY: &str = "
    WITH me AS MATERIALIZED (
        SELECT users.id, users.name FROM sessions JOIN users ON users.id = sessions.user_id
        WHERE sessions.token = $1 AND sessions.expires_at > now()
    ), recipe AS MATERIALIZED (
        SELECT * FROM recipes
        WHERE (owner_user_id = (SELECT id FROM me)
               OR owner_team_id = ANY (ARRAY(
                   SELECT team_id FROM memberships WHERE user_id = (SELECT id FROM me))))
            AND ($2::bigint IS NULL OR id = $2)
        ORDER BY random() LIMIT 1
    )
    SELECT CASE WHEN recipe.id IS NOT NULL THEN json_build_object(
        'time_zone', current_setting('TimeZone'),
        'user', json_build_object('id', me.id, 'name', me.name),
        'recipe', json_build_object(
            'id', recipe.id, 'owner_user_id', owner_user_id, 'owner_team_id', owner_team_id, 'title', title,
            'description', description, 'servings', servings, 'reaction_count', reaction_count,
            'created_at', created_at::text),
        'ingredients', coalesce((
            SELECT json_agg(row_to_json(i) ORDER BY i.position)
            FROM (SELECT id, position, name, quantity, unit FROM ingredients WHERE recipe_id = recipe.id) i), '[]'),
        'sections', coalesce((
            SELECT json_agg(row_to_json(s) ORDER BY s.position)
            FROM (SELECT id, position, title FROM sections WHERE recipe_id = recipe.id) s), '[]'),
        'steps', coalesce((
            SELECT json_agg(row_to_json(s) ORDER BY s.position)
            FROM (SELECT id, section_id, position, body, minutes FROM steps WHERE recipe_id = recipe.id) s), '[]'),
        'notes', coalesce((
            SELECT json_agg(row_to_json(n) ORDER BY n.id)
            FROM (
                SELECT id, author_id, body, created_at::text, coalesce((
                    SELECT json_agg(row_to_json(r) ORDER BY r.id)
                    FROM (SELECT id, user_id, emoji, created_at::text FROM reactions WHERE note_id = notes.id) r
                ), '[]') AS reactions
                FROM notes WHERE recipe_id = recipe.id) n), '[]'),
        'timeline_events', coalesce((
            SELECT json_agg(row_to_json(e) ORDER BY e.id)
            FROM (SELECT id, kind, happened_at::text FROM timeline_events WHERE recipe_id = recipe.id) e), '[]')
    )::text END
    FROM me LEFT JOIN recipe ON true";

// Of the write path, prepared on each use.
pub const INSERT_REACTION: &str = "
    INSERT INTO reactions (recipe_id, user_id, emoji) VALUES ($1, $2, $3)
    RETURNING id, recipe_id, user_id, emoji, created_at::text, current_setting('TimeZone') AS time_zone";
pub const COUNT_REACTION: &str = "UPDATE recipes SET reaction_count = reaction_count + 1 WHERE id = $1";
