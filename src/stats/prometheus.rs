//! Prometheus' text format, version 0.0.4: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::{Display, Write};
use std::time::Duration;

use super::histogram::Buckets;

/// The media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a metric is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// Only grows, but for a restart.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

/// A text under construction.
#[derive(Debug, Default)]
pub struct Exposition(String);

/// The samples of one metric, to be added to right after its heading.
#[derive(Debug)]
pub struct Family<'e> {
    out: &'e mut String,
    name: &'static str,
}

impl Exposition {
    /// Begins a metric. Each name may be begun once.
    pub fn family(&mut self, name: &'static str, kind: Type, help: &str) -> Family<'_> {
        let kind = match kind {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
        };
        put(&mut self.0, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { out: &mut self.0, name }
    }

    /// The whole text.
    #[must_use]
    pub fn finish(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// Adds one sample.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.line("", labels, value)
    }

    /// Adds the samples of a histogram in seconds, of durations whose sum is `micros`.
    pub fn histogram(&mut self, label: (&str, &str), buckets: &Buckets, micros: u64) -> &mut Self {
        for (bound, count) in buckets.cumulative() {
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |micros| seconds(micros).to_string());
            self.line("_bucket", &[label, ("le", &bound)], count);
        }
        self.line("_sum", &[label], seconds(micros));
        self.line("_count", &[label], buckets.count())
    }

    /// Adds the samples of a histogram in seconds: how many there are `below` bounds in microseconds, and in all, of
    /// durations whose sum is `micros`.
    pub fn buckets(&mut self, labels: &[(&str, &str)], below: Vec<(u64, u64)>, count: u64, micros: u64) -> &mut Self {
        let below = below.into_iter().map(|(bound, count)| (seconds(bound).to_string(), count));
        for (bound, count) in below.chain([("+Inf".to_owned(), count)]) {
            self.line("_bucket", &[labels, &[("le", &*bound)]].concat(), count);
        }
        self.line("_sum", labels, seconds(micros));
        self.line("_count", labels, count)
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        for (i, (name, value)) in labels.iter().enumerate() {
            self.out.push(if i == 0 { '{' } else { ',' });
            put(self.out, format_args!("{name}=\""));
            for c in value.chars() {
                match c {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    c => self.out.push(c),
                }
            }
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        put(self.out, format_args!(" {value}\n"));
        self
    }
}

/// Microseconds as seconds.
#[must_use]
pub fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String can't fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_as_the_format_says() {
        let mut text = Exposition::default();
        text.family("up", Type::Gauge, "Whether it is up.").sample(&[], 1);
        text.family("n_total", Type::Counter, "A number.").sample(&[("a", "x\"\\\ny"), ("b", "")], 0.5);
        assert_eq!(
            text.finish(),
            "# HELP up Whether it is up.\n# TYPE up gauge\nup 1\n\
             # HELP n_total A number.\n# TYPE n_total counter\nn_total{a=\"x\\\"\\\\\\ny\",b=\"\"} 0.5\n"
        );
    }
}
