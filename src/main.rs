//! The `carpool` binary: command line in, exit code out.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use carpool::config::{Config, ConfigErrors, Plan, Pooler, Target};
use carpool::net::timer;
use carpool::pooler::log::{self, LogControl, Wanted};
use carpool::pooler::process::{self, PidFile};
use carpool::pooler::upgrade::{self, Launch, Program};
use carpool::pooler::{self, Loaded, Origin, Overrides, Source};
use carpool::top::Options;
use carpool::top::view::Sort;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use tracing::{error, warn};

/// By size classes, without a header before each piece: an idle client takes a tenth less than with glibc's, and
/// prepared statements a quarter less.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static GLOBAL: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The exit code for a bad configuration, `EX_USAGE` of sysexits.h.
const BAD_CONFIG: u8 = 64;
/// Between two looks of `carpool top`.
const SHORTEST_DELAY: Duration = Duration::from_millis(100);
/// Worker threads at most, unless the configuration says otherwise: more share one pool with no gain.
const MOST_WORKERS: usize = 4;

/// A PostgreSQL connection pooler.
#[derive(Parser, Debug)]
#[command(name = "carpool", display_name = "Carpool", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// The configuration: .toml, or PgBouncer's .ini. Without it ./carpool.toml, else `DATABASE_URL`.
    config: Option<PathBuf>,
    /// Run in the background; needs pidfile, and logfile or syslog.
    #[arg(short, long)]
    daemon: bool,
    /// Log errors only; with logfile or syslog, log nothing to stderr.
    #[arg(short, long)]
    quiet: bool,
    /// Log more; twice for everything.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Become this user of the system, whatever the configuration says.
    #[arg(short, long, value_name = "USERNAME")]
    user: Option<String>,
    /// PgBouncer's online restart; Carpool's is the command upgrade.
    #[arg(short = 'R', long, hide = true)]
    reboot: bool,
    /// Take over from the Carpool that has started this one.
    #[arg(long, hide = true)]
    take_over: bool,
    /// Listen on this port, whatever the configuration says.
    #[arg(long, value_name = "PORT")]
    listen_port: Option<u16>,
    /// Serve the dashboard and metrics on this port, whatever the configuration says.
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
        #[arg(required_unless_present = "diff")]
        config: Option<PathBuf>,
        /// Print what a reload changes that puts the second one in the place of the first.
        #[arg(long, num_args = 2, value_names = ["OLD", "NEW"], conflicts_with = "config")]
        diff: Option<Vec<PathBuf>>,
    },
    /// Print a pgbouncer.ini as TOML.
    Convert {
        /// The ini file.
        file: PathBuf,
    },
    /// Say by the exit code whether a running Carpool takes clients, as a health check.
    Ready {
        /// Where its HTTP is, as http://HOST:PORT, or its configuration.
        #[arg(default_value = "carpool.toml")]
        target: String,
    },
    /// Print a record of the flight recorder as a timeline.
    Replay {
        /// The record.
        file: PathBuf,
    },
    /// Show databases, pools and clients of a running Carpool, in the style of top.
    Top {
        /// A URL of the console, or the configuration of the Carpool that runs. Passwords: `PGPASSWORD`.
        #[arg(default_value = "carpool.toml")]
        target: String,
        /// Seconds between two looks.
        #[arg(short, long, value_name = "SECONDS", default_value_t = 2.0)]
        delay: f64,
        /// Looks before it ends.
        #[arg(short = 'n', long, value_name = "NUMBER")]
        iterations: Option<u64>,
        /// Plain text for programs, one look below the other.
        #[arg(short, long)]
        batch: bool,
        /// What comes first.
        #[arg(short = 'o', long, value_enum, default_value = "wait")]
        sort: Sort,
    },
    /// Say what size pools should have, from a trace that a running Carpool has recorded (advisor).
    Advise {
        /// The trace, as GET /api/trace gives it; - for the standard input, or the URL of Carpool's HTTP.
        source: String,
        /// What a size has to fulfil.
        #[arg(long, default_value = "p99 wait < 5ms")]
        target: Target,
        /// Sizes to show, such as 5,10-20; without it those that matter.
        #[arg(long)]
        sizes: Option<String>,
        /// All there is, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Put the binary that is there by now in the place of a running Carpool, without dropping a client.
    Upgrade {
        /// A URL of the console, or the configuration of the Carpool that runs. Passwords: `PGPASSWORD`.
        #[arg(default_value = "carpool.toml")]
        target: String,
    },
    /// Write the man page and the shells' completions, for packages.
    #[command(hide = true)]
    Generate {
        /// Where: the directories `man` and `completions` are made there.
        directory: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match &arguments.command {
        Some(Command::Check { diff: Some(files), .. }) => diff(files),
        Some(Command::Check { config, .. }) => {
            let config = config.clone().unwrap_or_default();
            report(Config::load(&config), || println!("{}: ok", config.display()))
        }
        Some(Command::Convert { file }) => convert(file),
        Some(Command::Ready { target }) => match carpool::ready::ask(target) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
        Some(Command::Replay { file }) => match carpool::replay::read(file) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
        Some(Command::Top { target, delay, iterations, batch, sort }) => {
            let delay = Duration::try_from_secs_f64(*delay).unwrap_or_default().max(SHORTEST_DELAY);
            let (target, count) = (target.clone(), *iterations);
            top(&Options { target, delay, count, batch: *batch, sort: *sort })
        }
        Some(Command::Advise { source, target, sizes, json }) => {
            let (source, target, sizes, json) = (source.clone(), target.clone(), sizes.clone(), *json);
            match carpool::advise::run(&carpool::advise::Options { source, target, sizes, json }) {
                Ok(text) => {
                    print!("{text}");
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    eprintln!("carpool advise: {error}");
                    ExitCode::FAILURE
                }
            }
        }
        Some(Command::Upgrade { target }) => match carpool::top::upgrade(target) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("carpool upgrade: {error}");
                ExitCode::FAILURE
            }
        },
        Some(Command::Generate { directory }) => match generate(directory) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{}: {error}", directory.display());
                ExitCode::FAILURE
            }
        },
        None => serve(&arguments),
    }
}

/// Writes what packages have beside the binary.
fn generate(directory: &Path) -> std::io::Result<()> {
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    std::fs::create_dir_all(&man)?;
    std::fs::create_dir_all(&completions)?;
    let mut command = Arguments::command().display_name("carpool");
    clap_mangen::Man::new(command.clone()).render(&mut std::fs::File::create(man.join("carpool.1"))?)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "carpool", &completions)?;
    }
    Ok(())
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

fn top(options: &Options) -> ExitCode {
    match carpool::top::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("carpool top: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what a reload would change.
fn diff(files: &[PathBuf]) -> ExitCode {
    let loaded: Vec<_> = files.iter().map(|file| Config::load(file)).collect();
    match loaded.as_slice() {
        [Ok(old), Ok(new)] => {
            print_warnings(new);
            println!("{}", Plan::new(old, new));
            ExitCode::SUCCESS
        }
        others => {
            others.iter().filter_map(|loaded| loaded.as_ref().err()).for_each(|errors| eprintln!("{errors}"));
            ExitCode::from(BAD_CONFIG)
        }
    }
}

fn serve(arguments: &Arguments) -> ExitCode {
    if arguments.reboot {
        eprintln!(
            "-R is not supported: the running process starts the new one itself and hands its clients over, told by \
             carpool upgrade CONFIG"
        );
        return ExitCode::from(BAD_CONFIG);
    }
    let inherited = match arguments.take_over.then(upgrade::inherited_socket).transpose() {
        Ok(inherited) => inherited,
        Err(error) => {
            eprintln!("{} is for a running Carpool, which starts the next: {error}", upgrade::TAKE_OVER);
            return ExitCode::from(BAD_CONFIG);
        }
    };
    let last_words = inherited.as_ref().and_then(|socket| socket.try_clone().ok());
    let refuse = |why: &str| {
        if let Some(socket) = &last_words {
            upgrade::refuse(socket, why);
        }
    };
    let found = find_source(arguments).and_then(|source| {
        let loaded = source.load().map_err(|errors| errors.to_string())?;
        Ok((loaded, source))
    });
    let (loaded, source) = match found {
        Ok(found) => found,
        Err(message) => {
            refuse(&message);
            eprintln!("{message}");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    let pooler = &loaded.config.pooler;
    let pid_file = match prepare(arguments, pooler) {
        Ok(pid_file) => pid_file,
        Err(error) => {
            refuse(&error.to_string());
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let wanted = Wanted { quiet: arguments.quiet, verbose: arguments.verbose.into(), in_background: arguments.daemon };
    let log = log::start(pooler, wanted);
    for warning in &loaded.config.warnings {
        warn!("{warning}");
    }
    if !pooler.core_dumps {
        forbid_core_dumps();
    }
    // As many descriptors as the system lets us have; what is missing shows when they run out.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        error!("cannot raise the limit of open files: {error}");
    }
    let result = Program::of_this_process().and_then(|program| run(loaded, source, log, Launch { program, inherited }));
    drop(pid_file);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            refuse(&error.to_string());
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

/// Becomes the user and goes into the background as asked for, and writes the pid file.
fn prepare(arguments: &Arguments, pooler: &Pooler) -> std::io::Result<Option<PidFile>> {
    if let Some(user) = arguments.user.as_ref().or(pooler.user.as_ref()) {
        process::become_user(user)?;
    }
    if arguments.take_over {
        // It is in the background where the old one is, whose pid file is its own when it has taken over.
        return Ok(None);
    }
    if let Some(path) = &pooler.pidfile {
        PidFile::check(path)?;
    }
    if arguments.daemon {
        let missing = |what| Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, what));
        if pooler.pidfile.is_none() {
            return missing("daemon needs pidfile configured");
        }
        if pooler.logfile.is_none() && !pooler.syslog {
            return missing("daemon needs logfile or syslog configured");
        }
        process::daemonize()?;
    }
    pooler.pidfile.as_deref().map(PidFile::write).transpose()
}

fn run(loaded: Loaded, source: Source, log: LogControl, launch: Launch) -> std::io::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = match loaded.config.pooler.worker_threads {
        0 => (cores / 2).clamp(1, MOST_WORKERS),
        set => set,
    };
    // One worker needs no scheduler made for several: about 5 % less CPU per transaction.
    let mut builder = match workers {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(workers).enable_io().build()?;
    let result = runtime.block_on(async {
        timer::start()?;
        pooler::run(loaded, source, log, launch).await
    });
    // What is still closing is not waited for.
    runtime.shutdown_background();
    result
}
