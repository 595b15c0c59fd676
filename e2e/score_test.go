package e2e

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// agreeing lists, for each true event and cause, the verdicts that agree. The
// truth of a recording does not tell new bans from those in gaps and from
// re-read ones.
var agreeing = map[string][]string{
	"restore restart-clean": {"clean_restart"}, "restore restart-crash": {"crash"}, "restore restart-jail": {"jail_restart"},
	"restore reload": {"jail_restart"}, "restore reload-restart": {"jail_restart"},
	"unban expiry": {"expired"}, "unban manual": {"manual"}, "unban shutdown": {"shutdown"}, "unban jail-restart": {"jail_stop"},
	"unban jail-stop": {"jail_stop"}, "unban reload-restart": {"jail_stop"}, "unban reload-jail-removed-or-action-removed": {"jail_stop"},
	"ban failures": {"new", "gap", "reread"}, "ban manual": {"manual"},
}

// score says how `report events` compares with a recording's truth, by the rules
// of the correlation's own test: each true event is matched with one reported of
// the same jail, id and kind within six seconds.
type score struct {
	agree, total  int
	restoresWrong int
	extra, said   int // reported bans, restores and unbans that nothing true stands behind
	wrong         []string
}

func (s score) String() string {
	return fmt.Sprintf("%d of %d true events agree, %d restores told wrong, %d of %d without truth", s.agree, s.total, s.restoresWrong, s.extra, s.said)
}

// check holds a score against the project's bars.
func (s score) check(t *testing.T) {
	t.Helper()
	t.Log(s)
	if s.total == 0 || float64(s.agree) < 0.995*float64(s.total) || s.restoresWrong > 0 || float64(s.extra) > 0.005*float64(s.said) {
		t.Errorf("%s:\n%s", s, strings.Join(s.wrong, "\n"))
	}
}

func scoreOf(got []verdict, truth []lab.Event) score {
	const within = 6 * time.Second
	s := score{said: len(got)}
	left := slices.Clone(got)
	for _, e := range truth {
		s.total++
		best, distance := -1, time.Duration(math.MaxInt64)
		for i, v := range left {
			d := v.time.Sub(e.Time()).Abs()
			if v.jail == e.Jail && v.id == e.ID && v.event == e.Kind && d < within && d < distance {
				best, distance = i, d
			}
		}
		reported := "nothing"
		if best >= 0 {
			reported = left[best].cause
			left = slices.Delete(left, best, best+1)
		}
		if slices.Contains(agreeing[e.Kind+" "+e.Cause], reported) {
			s.agree++
			continue
		}
		if e.Kind == "restore" {
			s.restoresWrong++
		}
		s.wrong = append(s.wrong, fmt.Sprintf("%s %s %s by %s at %s, reported %s", e.Jail, e.ID, e.Kind, e.Cause, e.Time().Format(time.StampMilli), reported))
	}
	s.extra = len(left)
	for _, v := range left {
		s.wrong = append(s.wrong, fmt.Sprintf("%v at %s was never", v, v.time.Format(time.StampMilli)))
	}
	return s
}
