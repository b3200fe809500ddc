//! Other ways to the same reply of `GET /api/v1/recipes`, to compare: `VARIANT` selects one.
//!
//! | `VARIANT` | round trips | |
//! |---|---|---|
//! | `prepared` | 9 | the default, in `api`: one query after the other, prepared once per connection |
//! | `plain` | 17, and one for bb8's check | the same, but SQL as text: each query is prepared, run and closed |
//! | `pipelined` | 2 | prepared; what needn't wait for each other's reply is sent at once |
//! | `single` | 1 | one prepared statement, whose JSON PostgreSQL builds, right behind the `SET` |

pub mod pipelined;
pub mod plain;
pub mod single;
