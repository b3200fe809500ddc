//! The pool: connections that carry the statements of the read path, prepared once per connection.

use bb8::{ManageConnection, Pool};
use bb8_postgres::PostgresConnectionManager;
use tokio_postgres::{Client, Error, NoTls, Statement};

pub type Connections = Pool<Manager>;

/// The pool of `size` connections to `url`, whose requests ask for times in `time_zone`.
pub async fn connect(url: &str, time_zone: &str, size: u32) -> Result<Connections, Error> {
    let manager = Manager {
        postgres: PostgresConnectionManager::new_from_stringlike(url, NoTls)?,
        // SET takes no parameters.
        set_time_zone: format!("SET TIME ZONE '{}'", time_zone.replace('\'', "''")),
    };
    // A closed connection is noticed without asking the server before every use.
    Pool::builder().max_size(size).min_idle(1).test_on_check_out(false).build(manager).await
}

pub struct Connection {
    pub client: Client,
    pub statements: Statements,
    set_time_zone: String,
}

impl Connection {
    pub async fn set_time_zone(&self) -> Result<(), Error> {
        self.client.batch_execute(&self.set_time_zone).await
    }
}

pub struct Manager {
    postgres: PostgresConnectionManager<NoTls>,
    set_time_zone: String,
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = Error;

    async fn connect(&self) -> Result<Connection, Error> {
        let client = self.postgres.connect().await?;
        let statements = Statements::prepare(&client).await?;
        Ok(Connection { client, statements, set_time_zone: self.set_time_zone.clone() })
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), Error> {
        self.postgres.is_valid(&mut connection.client).await
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        self.postgres.has_broken(&mut connection.client)
    }
}

pub struct Statements {
    pub user: Statement,
    pub teams: Statement,
    pub recipe: Statement,
    pub ingredients: Statement,
    pub sections: Statement,
    pub steps: Statement,
    pub notes: Statement,
    pub events: Statement,
}

impl Statements {
    async fn prepare(client: &Client) -> Result<Self, Error> {
        Ok(Self {
            user: client.prepare(SELECT_USER).await?,
            teams: client.prepare(SELECT_TEAMS).await?,
            recipe: client.prepare(SELECT_RECIPE).await?,
            ingredients: client.prepare(SELECT_INGREDIENTS).await?,
            sections: client.prepare(SELECT_SECTIONS).await?,
            steps: client.prepare(SELECT_STEPS).await?,
            notes: client.prepare(SELECT_NOTES).await?,
            events: client.prepare(SELECT_EVENTS).await?,
        })
    }
}

const SELECT_USER: &str = "
    SELECT users.id, users.name FROM sessions JOIN users ON users.id = sessions.user_id
    WHERE sessions.token = $1 AND sessions.expires_at > now()";
const SELECT_TEAMS: &str = "SELECT team_id FROM memberships WHERE user_id = $1";
const SELECT_RECIPE: &str = "
    SELECT id, owner_user_id, owner_team_id, title, description, servings, reaction_count,
           created_at::text, current_setting('TimeZone') AS time_zone
    FROM recipes
    WHERE (owner_user_id = $1 OR owner_team_id = ANY ($2::bigint[])) AND ($3::bigint IS NULL OR id = $3)
    ORDER BY random() LIMIT 1";
const SELECT_INGREDIENTS: &str =
    "SELECT id, position, name, quantity, unit FROM ingredients WHERE recipe_id = $1 ORDER BY position";
const SELECT_SECTIONS: &str = "SELECT id, position, title FROM sections WHERE recipe_id = $1 ORDER BY position";
const SELECT_STEPS: &str =
    "SELECT id, section_id, position, body, minutes FROM steps WHERE recipe_id = $1 ORDER BY position";
const SELECT_NOTES: &str = "
    SELECT notes.id, notes.author_id, notes.body, notes.created_at::text,
           reactions.id AS reaction_id, reactions.user_id, reactions.emoji, reactions.created_at::text AS reacted_at
    FROM notes LEFT JOIN reactions ON reactions.note_id = notes.id
    WHERE notes.recipe_id = $1 ORDER BY notes.id, reactions.id";
const SELECT_EVENTS: &str = "SELECT id, kind, happened_at::text FROM timeline_events WHERE recipe_id = $1 ORDER BY id";

// Of the write path, prepared on each use.
pub const INSERT_REACTION: &str = "
    INSERT INTO reactions (recipe_id, user_id, emoji) VALUES ($1, $2, $3)
    RETURNING id, recipe_id, user_id, emoji, created_at::text, current_setting('TimeZone') AS time_zone";
pub const COUNT_REACTION: &str = "UPDATE recipes SET reaction_count = reaction_count + 1 WHERE id = $1";
