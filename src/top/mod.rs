//! `carpool top`: databases, pools and clients in the terminal, in the style of top, by what the console shows.
//!
//! A program of its own that happens to be in the same binary: it connects to a running Carpool as any client does.
//! [`view`] makes the text and knows neither terminal nor network.

pub mod view;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::{cursor, execute, queue, style, terminal};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::config::Config;
use view::{Rows, Sample, Sort, View};

/// How it is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the console is: a URL, or the configuration of a running Carpool.
    pub target: String,
    /// Between two looks.
    pub delay: Duration,
    /// Looks; `None`: no end.
    pub count: Option<u64>,
    /// Plain text, one look below the other, to be read by programs.
    pub batch: bool,
    /// What comes first.
    pub sort: Sort,
}

/// Why it ends.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// Nothing that leads to a console.
    #[error("{0}")]
    Target(String),
    /// Of the connection.
    #[error("{}", whole(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// Of the terminal.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The answer didn't come.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// The error and what is behind it.
fn whole(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// How long a connect or an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until it is told to stop.
///
/// # Errors
/// When the console can't be reached at the start or, in batch mode, any more; the terminal's.
pub fn run(options: &Options) -> Result<(), TopError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let config = target(&options.target, true)?;
    let mut console = Console { runtime, config, client: None };
    if options.batch || !io::stdout().is_terminal() {
        batch(&mut console, options)
    } else {
        screen(&mut console, options)
    }
}

/// Has a running Carpool put a new process in its place.
///
/// # Errors
/// When the console can't be reached; why the upgrade failed.
pub fn upgrade(to: &str) -> Result<(), TopError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut config = target(to, false)?;
    config.application_name("carpool upgrade");
    runtime.block_on(async {
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        // It takes no longer than upgrade_timeout.
        client.simple_query("UPGRADE").await.map(drop).map_err(|error| match error.as_db_error() {
            Some(error) => TopError::Target(match error.detail() {
                Some(detail) => format!("{}: {detail}", error.message()),
                None => error.message().to_owned(),
            }),
            None => error.into(),
        })
    })
}

/// Where the console is, for one who only looks or not.
fn target(target: &str, looks: bool) -> Result<tokio_postgres::Config, TopError> {
    let mut config = if target.contains("://") || target.contains('=') {
        target.parse().map_err(|error| TopError::Target(format!("{}: {}", "not a URL", whole(&error))))?
    } else {
        of_file(Path::new(target), looks)?
    };
    if config.get_dbname().is_none_or(str::is_empty) {
        config.dbname("pgbouncer");
    }
    if config.get_password().is_none() {
        if let Ok(password) = std::env::var("PGPASSWORD") {
            config.password(password);
        }
    }
    config.application_name("carpool top").connect_timeout(TIMEOUT);
    Ok(config)
}

/// By the unix socket, where the system's own user needs no password; else by TCP as the first who may.
fn of_file(path: &Path, looks: bool) -> Result<tokio_postgres::Config, TopError> {
    let loaded = Config::load(path).map_err(|errors| TopError::Target(errors.to_string()))?;
    let pooler = &loaded.pooler;
    let mut config = tokio_postgres::Config::new();
    config.port(pooler.listen_port);
    if let Some(directory) = &pooler.unix_socket_dir {
        config.host_path(directory).user("pgbouncer");
        return Ok(config);
    }
    let host = pooler.listen_addr.iter().find(|addr| *addr != "*").map_or("127.0.0.1", String::as_str);
    let lookers = pooler.stats_users.iter().filter(|_| looks);
    let Some(user) = lookers.chain(&pooler.admin_users).next() else {
        let text = "nobody may use the console; see unix_socket_dir, stats_users and admin_users";
        return Err(TopError::Target(format!("{}: {text}", path.display())));
    };
    config.host(host).user(user.as_str());
    Ok(config)
}

/// A connection to the console, made when it is needed.
struct Console {
    runtime: tokio::runtime::Runtime,
    config: tokio_postgres::Config,
    client: Option<Client>,
}

impl Console {
    fn look(&mut self) -> Result<Sample, TopError> {
        let looked = self.try_look();
        if looked.is_err() {
            self.client = None;
        }
        looked
    }

    fn try_look(&mut self) -> Result<Sample, TopError> {
        if self.client.is_none() {
            let config = self.config.clone();
            self.client = Some(self.runtime.block_on(async {
                let (client, connection) = config.connect(NoTls).await?;
                tokio::spawn(connection);
                Ok::<_, TopError>(client)
            })?);
        }
        Ok(Sample {
            version: self.ask("SHOW VERSION")?,
            stats: self.ask("SHOW STATS")?,
            pools: self.ask("SHOW POOLS")?,
            clients: self.ask("SHOW CLIENTS")?,
            at: Instant::now(),
        })
    }

    fn ask(&self, command: &str) -> Result<Rows, TopError> {
        let Some(client) = &self.client else { return Ok(Rows::new()) };
        let answered = async {
            #[expect(clippy::disallowed_methods, reason = "a runtime with timers of its own")]
            tokio::time::timeout(TIMEOUT, client.simple_query(command)).await
        };
        let messages = self.runtime.block_on(answered).map_err(|_| TopError::Timeout(TIMEOUT))??;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let value = |i| row.get(i).unwrap_or_default().to_owned();
                Some(row.columns().iter().enumerate().map(|(i, c)| (c.name().to_owned(), value(i))).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }
}

fn batch(console: &mut Console, options: &Options) -> Result<(), TopError> {
    let mut view = View::new(options.sort);
    let mut out = io::stdout();
    for i in 0u64.. {
        if options.count.is_some_and(|count| i >= count) {
            break;
        }
        if i > 0 {
            std::thread::sleep(options.delay);
        }
        view.take(console.look()?);
        let separator = if i > 0 { "\n" } else { "" };
        match writeln!(out, "{separator}{}", view.lines(usize::MAX, usize::MAX).join("\n")).and_then(|()| out.flush()) {
            // Whoever reads has enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written?,
        }
    }
    Ok(())
}

/// The terminal, for as long as it shows nothing else.
struct Screen;

impl Screen {
    fn new() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let screen = Self;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    fn draw(&self, lines: &[String]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        queue!(out, terminal::BeginSynchronizedUpdate, cursor::MoveTo(0, 0))?;
        for (i, line) in lines.iter().enumerate() {
            if i > 0 {
                queue!(out, cursor::MoveToNextLine(1))?;
            }
            queue!(out, style::Print(line), terminal::Clear(terminal::ClearType::UntilNewLine))?;
        }
        queue!(out, terminal::Clear(terminal::ClearType::FromCursorDown), terminal::EndSynchronizedUpdate)?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = execute!(io::stdout(), cursor::Show, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

fn screen(console: &mut Console, options: &Options) -> Result<(), TopError> {
    let mut view = View::new(options.sort);
    // The first look before the screen is taken: an error stays to be read.
    view.take(console.look()?);
    let screen = Screen::new()?;
    let mut looks = 1;
    loop {
        let (width, height) = terminal::size()?;
        screen.draw(&view.lines(width.into(), height.into()))?;
        if options.count.is_some_and(|count| looks >= count) {
            return Ok(());
        }
        match wait_for_key(options.delay, view.taken)? {
            Some(key) if is_goodbye(key) => return Ok(()),
            Some(KeyEvent { code: KeyCode::Char(c), .. }) if Sort::of_key(c).is_some() => {
                view.sort = Sort::of_key(c).unwrap_or(view.sort);
            }
            Some(KeyEvent { code: KeyCode::Char(' '), .. }) | None => {
                looks += 1;
                match console.look() {
                    Ok(sample) => view.take(sample),
                    // Carpool may be back soon.
                    Err(error) => view.fail(error.to_string(), Instant::now()),
                }
            }
            Some(_) => {}
        }
    }
}

fn is_goodbye(key: KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) || (control && key.code == KeyCode::Char('c'))
}

/// A key, or `None` when the next look is due.
fn wait_for_key(delay: Duration, since: Option<Instant>) -> io::Result<Option<KeyEvent>> {
    let left = since.map_or(Duration::ZERO, |since| delay.saturating_sub(since.elapsed()));
    if !event::poll(left)? {
        return Ok(None);
    }
    Ok(match event::read()? {
        Event::Key(key) if key.kind == KeyEventKind::Press => Some(key),
        // Drawn anew.
        _ => Some(KeyEvent::new(KeyCode::Null, KeyModifiers::NONE)),
    })
}
