//! The `carpool` binary: command line in, exit code out.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use carpool::config::{Config, ConfigErrors, Pooler};
use carpool::net::timer;
use carpool::pooler::{self, Origin, Overrides, Source};
use clap::{Parser, Subcommand};
use tracing::{error, warn};
use tracing_subscriber::EnvFilter;

/// The exit code for a bad configuration, `EX_USAGE` of sysexits.h.
const BAD_CONFIG: u8 = 64;
/// Worker threads at most, unless the configuration says otherwise: more share one pool with no gain.
const MOST_WORKERS: usize = 4;

/// A PostgreSQL connection pooler.
#[derive(Parser, Debug)]
#[command(name = "carpool", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// The configuration: .toml, or PgBouncer's .ini. Without it ./carpool.toml, else `DATABASE_URL`.
    config: Option<PathBuf>,
    /// Log errors only.
    #[arg(short, long)]
    quiet: bool,
    /// Log more; twice for everything.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Listen on this port, whatever the configuration says.
    #[arg(long, value_name = "PORT")]
    listen_port: Option<u16>,
    /// Serve the status page and metrics on this port, whatever the configuration says.
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Validate a configuration and print all that is wrong with it.
    Check {
        /// The configuration.
        config: PathBuf,
    },
    /// Print a pgbouncer.ini as TOML.
    Convert {
        /// The ini file.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match &arguments.command {
        Some(Command::Check { config }) => report(Config::load(config), || println!("{}: ok", config.display())),
        Some(Command::Convert { file }) => convert(file),
        None => serve(&arguments),
    }
}

/// Says all there is to say about a configuration.
fn report(loaded: Result<Config, ConfigErrors>, good: impl FnOnce()) -> ExitCode {
    match loaded {
        Ok(config) => {
            print_warnings(&config);
            good();
            ExitCode::SUCCESS
        }
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::from(BAD_CONFIG)
        }
    }
}

fn print_warnings(config: &Config) {
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
}

fn convert(file: &Path) -> ExitCode {
    let loaded = Config::load(file);
    let toml = loaded.as_ref().map(Config::to_toml).unwrap_or_default();
    report(loaded, || print!("{toml}"))
}

fn serve(arguments: &Arguments) -> ExitCode {
    let loaded = find_source(arguments).and_then(|source| {
        let config = source.load().map_err(|errors| errors.to_string())?;
        Ok((config, source))
    });
    let (config, source) = match loaded {
        Ok(found) => found,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    start_log(arguments, &config.pooler);
    for warning in &config.warnings {
        warn!("{warning}");
    }
    if !config.pooler.core_dumps {
        forbid_core_dumps();
    }
    // As many descriptors as the system lets us have; what is missing shows when they run out.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        error!("cannot raise the limit of open files: {error}");
    }
    match run(config, source) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A dump would have passwords in it. The limit alone doesn't hold for systems that pipe dumps to a program.
fn forbid_core_dumps() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        error!("cannot forbid core dumps: {error}");
    }
    if let Err(error) = rlimit::setrlimit(rlimit::Resource::CORE, 0, 0) {
        error!("cannot forbid core dumps: {error}");
    }
}

fn find_source(arguments: &Arguments) -> Result<Source, String> {
    let default = Path::new("carpool.toml");
    let origin = match (&arguments.config, std::env::var("DATABASE_URL")) {
        (Some(path), _) => Origin::File(path.clone()),
        (None, _) if default.exists() => Origin::File(default.to_owned()),
        (None, Ok(url)) => Origin::Url(url),
        (None, Err(_)) => {
            return Err("no configuration: give a file, or have ./carpool.toml, or set DATABASE_URL".into());
        }
    };
    let overrides = Overrides { listen_port: arguments.listen_port, http_port: arguments.http_port };
    Ok(Source { origin, overrides })
}

fn start_log(arguments: &Arguments, pooler: &Pooler) {
    let level = match (arguments.quiet, u32::from(arguments.verbose).max(pooler.verbose)) {
        (true, _) => "error",
        (false, 0) => "info",
        (false, 1) => "debug",
        (false, _) => "trace",
    };
    let filter = EnvFilter::try_from_env("CARPOOL_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

fn run(config: Config, source: Source) -> std::io::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = match config.pooler.worker_threads {
        0 => (cores / 2).clamp(1, MOST_WORKERS),
        set => set,
    };
    // One worker needs no scheduler made for several: about 5 % less CPU per transaction.
    let mut builder = match workers {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    timer::run_apart()?;
    let runtime = builder.worker_threads(workers).enable_io().build()?;
    let result = runtime.block_on(pooler::run(config, source));
    // What is still closing is not waited for.
    runtime.shutdown_background();
    result
}
