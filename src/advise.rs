//! `carpool advise`: advice on the size of pools, from a recorded trace.

use std::fmt::Write;
use std::io::Read;
use std::time::Duration;

use crate::config::Target;
use crate::stats::advisor::advise::{Advice, MOST, SizeAdvice};
use crate::stats::advisor::trace::Trace;
use crate::stats::advisor::{advise, format};

/// The longest file that is read, bytes.
const LONGEST: u64 = 512 * 1024 * 1024;
/// How long a running Carpool may take for its trace.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// A file, `-` for what comes in, or the URL of a Carpool's HTTP.
    pub source: String,
    /// What a size has to fulfil.
    pub target: Target,
    /// Sizes to show, such as `5,10-20`; none: those that matter.
    pub sizes: Option<String>,
    /// For programs.
    pub json: bool,
}

/// Gives the text to print.
///
/// # Errors
/// Why there is none: the trace can't be read, or isn't one.
pub fn run(options: &Options) -> Result<String, String> {
    let sizes = options.sizes.as_deref().map(sizes).transpose()?;
    let source = &options.source;
    let traces = format::read(&read(source)?).map_err(|error| format!("{source}: {error}"))?;
    if traces.is_empty() {
        return Err(format!("{source}: nothing was recorded; see advisor in [pooler]"));
    }
    let all = traces.iter().map(|trace: &Trace| advise(trace, &options.target, MOST));
    if options.json {
        let pools: Vec<Advice> = all.collect();
        let shown = serde_json::json!({ "target": options.target.to_string(), "pools": pools });
        return serde_json::to_string_pretty(&shown).map(|text| text + "\n").map_err(|error| error.to_string());
    }
    Ok(all.map(|advice| plain(&advice, sizes.as_deref())).collect::<Vec<_>>().join("\n"))
}

fn read(source: &str) -> Result<String, String> {
    let said = |error: &dyn std::fmt::Display| format!("{source}: {error}");
    if source.contains("://") {
        let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).max_redirects(0).proxy(None);
        let agent: ureq::Agent = config.build().into();
        let url = format!("{}/api/trace", source.trim_end_matches('/'));
        let mut response = agent.get(&url).call().map_err(|error| said(&error))?;
        return response.body_mut().with_config().limit(LONGEST).read_to_string().map_err(|error| said(&error));
    }
    let mut text = String::new();
    let read = match source {
        "-" => std::io::stdin().take(LONGEST + 1).read_to_string(&mut text),
        path => std::fs::File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text)),
    };
    match read {
        Err(error) => Err(said(&error)),
        Ok(_) if text.len() as u64 > LONGEST => Err(said(&format!("is longer than {LONGEST} bytes"))),
        Ok(_) => Ok(text),
    }
}

/// Reads sizes such as `5,10-20`.
fn sizes(text: &str) -> Result<Vec<u32>, String> {
    let mut all = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let size = |text: &str| text.trim().parse::<u32>().ok().filter(|size| (1..=MOST).contains(size));
        match (size(from), size(to)) {
            (Some(from), Some(to)) if from <= to => all.extend(from..=to),
            _ => return Err(format!("{part:?} is neither a size from 1 to {MOST} nor two of them as in 10-20")),
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// Sizes that say most: a few small ones, those that the advice names, and those around.
fn telling(advice: &Advice) -> Vec<u32> {
    let named = [Some(advice.size), advice.recommended, advice.low, advice.high, advice.enough];
    let around =
        [advice.size, advice.recommended.unwrap_or(advice.size)].map(|size| [size.saturating_sub(1), size + 1]);
    let last = advice.sizes.len() as u32;
    let mut all: Vec<u32> = [1, 2, 3, 5, 8, 12, 18, 25, 40, 60, 100, 200].into_iter().collect();
    all.extend(named.into_iter().flatten().chain(around.into_iter().flatten()));
    all.retain(|size| (1..=last).contains(size));
    all.sort_unstable();
    all.dedup();
    all
}

fn plain(advice: &Advice, sizes: Option<&[u32]>) -> String {
    let mut text = format!("database {}: {}\n", advice.database, advice.verdict);
    let (trace, contention) = (&advice.trace, &advice.contention);
    // Writing to a String can't fail.
    let _ = writeln!(
        text,
        "{} transactions of {} clients, {:.1} s recorded within {:.1} s",
        trace.transactions, trace.clients, trace.seconds, trace.span_seconds
    );
    if advice.sizes.is_empty() {
        return text;
    }
    let _ = writeln!(
        text,
        "contention: {} (sigma {}, kappa {}); at twice the servers at work {} times as long ({} to {})\n",
        contention.model,
        contention.sigma,
        contention.kappa,
        contention.growth,
        contention.growth_low,
        contention.growth_high
    );
    let _ = writeln!(
        text,
        "{:>5} {:>11} {:>11} {:>23} {:>6} {:>10} {:>13}",
        "size", "wait p50", "wait p99", "(from to)", "used", "per second", "response p99"
    );
    let wanted = sizes.map_or_else(|| telling(advice), <[u32]>::to_vec);
    for s in advice.sizes.iter().filter(|s| wanted.contains(&s.size)) {
        let _ = writeln!(text, "{}", line(s, advice));
    }
    text
}

fn line(s: &SizeAdvice, advice: &Advice) -> String {
    let ms = |micros: u64| format!("{:.2} ms", micros as f64 / 1e3);
    let range = format!("({} {})", ms(s.wait_p99_low_us), ms(s.wait_p99_high_us));
    let marks = [(Some(advice.size), "now"), (advice.recommended, "recommended"), (advice.enough, "enough")];
    let marks: Vec<_> = marks.into_iter().filter(|(size, _)| *size == Some(s.size)).map(|(_, mark)| mark).collect();
    let text = format!(
        "{:>5} {:>11} {:>11} {range:>23} {:>5.0}% {:>10.1} {:>13} {}",
        s.size,
        ms(s.wait_p50_us),
        ms(s.wait_p99_us),
        s.utilization * 100.0,
        s.throughput,
        ms(s.response_p99_us),
        marks.join(", ")
    );
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_and_ranges() {
        assert_eq!(sizes("5,10-12,11"), Ok(vec![5, 10, 11, 12]));
        for text in ["", "0", "201", "5-4", "x", "1,,2", "-3"] {
            assert!(sizes(text).is_err(), "{text}");
        }
    }
}
