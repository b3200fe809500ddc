"""The verdict: python -m unittest discover -s tests/conformance"""

import unittest

from scoreboard import Difference, Score, load_accepted, table, verdict


def score(**failures):
    """One run: each test with what went wrong, None where nothing did."""
    made = Score("suite", "transaction")
    made.add(failures, 1, 100, 7)
    return made


def accepted(*tests, **more):
    return Difference("suite", list(tests), ["transaction"], "a reason", **more)


class Verdict(unittest.TestCase):
    def test_all_as_accepted(self):
        self.assertEqual(verdict([score(a=None, b="wrong")], [accepted("b")]), [])

    def test_an_unlisted_failure(self):
        self.assertEqual(verdict([score(a="wrong")], [accepted("b")]), ["suite/a failed, transaction: wrong"])

    def test_an_unlisted_failure_in_one_of_two_runs(self):
        made = score(a="wrong")
        made.add({"a": None}, 1, 100, 7)
        self.assertEqual(verdict([made], []), ["suite/a failed in 1 of 2 runs, transaction: wrong"])

    def test_a_listed_test_that_passes(self):
        self.assertIn("suite/a passed", verdict([score(a=None)], [accepted("a")])[0])
        self.assertEqual(verdict([score(a=None)], [accepted("a", sometimes=True)]), [])

    def test_a_listed_test_that_was_not_run(self):
        self.assertEqual(verdict([score(b=None)], [accepted("a")]), [])

    def test_another_set_up_accepts_nothing(self):
        other = Difference("suite", ["a"], ["session"], "a reason")
        self.assertEqual(len(verdict([score(a="wrong")], [other])), 1)

    def test_a_star_matches_anything_and_nothing_else_is_special(self):
        made = score(**{"f::t[x.y]": "wrong", "f::u": None})
        self.assertEqual(verdict([made], [accepted("f::t[*]")]), [])
        self.assertEqual(len(verdict([made], [accepted("f::t[xzy]")])), 1)

    def test_every_accepted_difference_has_a_reason(self):
        for difference in load_accepted():
            self.assertTrue(difference.reason.strip(), difference)

    def test_the_table(self):
        row = table([score(a=None, b="wrong")]).splitlines()[-1]
        self.assertEqual(row, "| suite | transaction | 1 of 2 | 7 of 100 (7.0 %) | 1 | b |")


if __name__ == "__main__":
    unittest.main()
