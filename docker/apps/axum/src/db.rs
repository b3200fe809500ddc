//! The pool: connections that carry the statements of a variant, prepared once per connection.

use std::future::Future;
use std::marker::PhantomData;

use bb8::{ManageConnection, Pool};
use bb8_postgres::PostgresConnectionManager;
use tokio_postgres::{Client, Error, NoTls, Statement};

use crate::sql;

pub type Connections<S> = Pool<Manager<S>>;

/// What the pool is made of.
pub struct Options {
    pub url: String,
    pub time_zone: String,
    /// Connections at most.
    pub size: u32,
    /// Ask the server before each use whether the connection lives: bb8's default, and a round trip. Without it, a
    /// connection that was closed is noticed all the same.
    pub test_on_check_out: bool,
}

pub async fn connect<S: Prepared>(options: &Options) -> Result<Connections<S>, Error> {
    let manager = Manager {
        postgres: PostgresConnectionManager::new_from_stringlike(&options.url, NoTls)?,
        // SET takes no parameters.
        set_time_zone: format!("SET TIME ZONE '{}'", options.time_zone.replace('\'', "''")),
        statements: PhantomData,
    };
    let builder = Pool::builder().max_size(options.size).min_idle(1);
    builder.test_on_check_out(options.test_on_check_out).build(manager).await
}

pub struct Connection<S> {
    pub client: Client,
    pub statements: S,
    set_time_zone: String,
}

impl<S> Connection<S> {
    pub async fn set_time_zone(&self) -> Result<(), Error> {
        self.client.batch_execute(&self.set_time_zone).await
    }
}

pub struct Manager<S> {
    postgres: PostgresConnectionManager<NoTls>,
    set_time_zone: String,
    statements: PhantomData<fn() -> S>,
}

impl<S: Prepared> ManageConnection for Manager<S> {
    type Connection = Connection<S>;
    type Error = Error;

    async fn connect(&self) -> Result<Connection<S>, Error> {
        let client = self.postgres.connect().await?;
        let statements = S::prepare(&client).await?;
        Ok(Connection { client, statements, set_time_zone: self.set_time_zone.clone() })
    }

    async fn is_valid(&self, connection: &mut Connection<S>) -> Result<(), Error> {
        self.postgres.is_valid(&mut connection.client).await
    }

    fn has_broken(&self, connection: &mut Connection<S>) -> bool {
        self.postgres.has_broken(&mut connection.client)
    }
}

/// The statements that a connection is given when it is made.
pub trait Prepared: Sized + Send + Sync + 'static {
    fn prepare(client: &Client) -> impl Future<Output = Result<Self, Error>> + Send;
}

/// None.
impl Prepared for () {
    async fn prepare(_client: &Client) -> Result<Self, Error> {
        Ok(())
    }
}

/// One for each query.
pub struct Statements {
    pub user: Statement,
    pub teams: Statement,
    pub recipe: Statement,
    pub parts: PartStatements,
}

impl Prepared for Statements {
    async fn prepare(client: &Client) -> Result<Self, Error> {
        Ok(Self {
            user: client.prepare(sql::SELECT_USER).await?,
            teams: client.prepare(sql::SELECT_TEAMS).await?,
            recipe: client.prepare(sql::SELECT_RECIPE).await?,
            parts: PartStatements::prepare(client).await?,
        })
    }
}

/// What belongs to a recipe.
pub struct PartStatements {
    pub ingredients: Statement,
    pub sections: Statement,
    pub steps: Statement,
    pub notes: Statement,
    pub events: Statement,
}

impl Prepared for PartStatements {
    async fn prepare(client: &Client) -> Result<Self, Error> {
        Ok(Self {
            ingredients: client.prepare(sql::SELECT_INGREDIENTS).await?,
            sections: client.prepare(sql::SELECT_SECTIONS).await?,
            steps: client.prepare(sql::SELECT_STEPS).await?,
            notes: client.prepare(sql::SELECT_NOTES).await?,
            events: client.prepare(sql::SELECT_EVENTS).await?,
        })
    }
}
