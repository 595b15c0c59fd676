package correlate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// truth is what really happened on the servers of a recording, taken outside
// their logs: from what the driver did and what the actions executed.
type truth struct {
	Hosts map[string]struct {
		Version string
		TZ      string
		Files   []string
		Events  []trueEvent
	}
}

type trueEvent struct {
	T        float64
	Jail, ID string
	Kind     string
	Cause    string
}

// agreeing lists, for each true cause, the verdicts that agree with it.
var agreeing = map[string][]Cause{
	"restore restart-clean": {CleanRestart}, "restore restart-crash": {Crash}, "restore restart-jail": {JailRestart},
	"restore reload": {JailRestart}, "restore reload-restart": {JailRestart},
	"unban expiry": {Expired}, "unban manual": {Manual}, "unban shutdown": {Shutdown}, "unban jail-restart": {JailStop},
	"unban jail-stop": {JailStop}, "unban reload-restart": {JailStop}, "unban reload-jail-removed-or-action-removed": {JailStop},
	"ban failures": {New, Gap, Reread}, "ban manual": {Manual},
}

const recordings = "../../../testdata/recordings"

// unreadable are read through Loki in the end-to-end tests: their lines bear no
// date, a format of the user's own, or clocks that were bent.
var unreadable = []string{"fmt-file-datetime-off", "fmt-sysout", "fmt-stdout-vvv", "fmt-file-custom", "fmt-syslog-raw", "fmt-journal", "dst-fallback"}

// logsOf gives each way in which a host's log was recorded, oldest file first.
func logsOf(files []string) (ways [][]string) {
	var logs []string
	for _, f := range files {
		switch filepath.Base(f) {
		case "fail2ban.log":
			logs = append(logs, f)
		case "fail2ban.log.1":
			logs = append([]string{f}, logs...)
		}
	}
	if logs != nil {
		slices.SortFunc(logs, func(a, b string) int { return len(b) - len(a) })
		return [][]string{logs}
	}
	for _, f := range files {
		switch filepath.Base(f) {
		case "stdout.log", "syslog-traditional.log", "syslog-iso.log", "syslog-rfc5424.log":
			ways = append(ways, []string{f})
		}
	}
	return ways
}

func readTruth(t testing.TB, dir string) truth {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "truth.json"))
	if err != nil {
		t.Fatal(err)
	}
	var tr truth
	if err := json.Unmarshal(text, &tr); err != nil {
		t.Fatal(err)
	}
	return tr
}

func readLog(t testing.TB, dir, host string, files []string) (lines []logLine) {
	t.Helper()
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			lines = append(lines, logLine{host, strings.TrimSuffix(string(line), "\n")})
		}
	}
	return lines
}

type score struct {
	agree, total, restoresWrong, said, extra int
	unbans, unbansRight                      map[string]int
	wrong                                    []string
}

// The verdicts on all recordings against the truth: the bars are those of the
// project, and what still disagrees is listed by -v.
func TestRecordingsAgreeWithTheTruth(t *testing.T) {
	dirs, err := filepath.Glob(recordings + "/*")
	if err != nil || len(dirs) < 40 {
		t.Fatal("recordings are missing", len(dirs), err)
	}
	s := score{unbans: map[string]int{}, unbansRight: map[string]int{}}
	for _, dir := range dirs {
		if slices.Contains(unreadable, filepath.Base(dir)) {
			continue
		}
		tr := readTruth(t, dir)
		for host, h := range tr.Hosts {
			zone, err := time.LoadLocation(h.TZ)
			if err != nil {
				t.Fatal(err)
			}
			for _, files := range logsOf(h.Files) {
				e := NewEngine(Options{Events: true})
				feedWith(t, e, readLog(t, dir, host, files), zone)
				e.Finish(e.Newest())
				checkIdentity(t, e)
				s.compare(filepath.Base(dir)+" "+host, h.Version, slices.Clone(h.Events), e.Findings())
			}
		}
	}
	for _, w := range s.wrong {
		t.Log(w)
	}
	share := 100 * float64(s.agree) / float64(s.total)
	t.Logf("%d of %d true events agree: %.2f %%; restores told wrong: %d; without truth: %d of %d", s.agree, s.total, share, s.restoresWrong, s.extra, s.said)
	if share < 99.5 || s.restoresWrong > 0 || float64(s.extra) > 0.005*float64(s.said) {
		t.Errorf("%.2f %% agree, %d restores wrong, %d of %d without truth", share, s.restoresWrong, s.extra, s.said)
	}
	for cause, n := range s.unbans {
		if right := 100 * float64(s.unbansRight[cause]) / float64(n); right < 95 {
			t.Errorf("unbans by %s: only %.1f %% right", cause, right)
		}
	}
}

// compare matches each true event with one reported of the same jail, id and
// kind within six seconds.
func (s *score) compare(name, version string, events []trueEvent, fs []Finding) {
	legacy := strings.HasPrefix(version, "0.8") || strings.HasPrefix(version, "0.9")
	type key struct{ jail, id, kind string }
	reported := map[key][]*Occurrence{}
	for _, f := range fs {
		if o := f.Event; o != nil && (o.Event == "ban" || o.Event == "restore" || o.Event == "unban") {
			k := key{o.Jail, o.ID, o.Event}
			reported[k] = append(reported[k], o)
		}
	}
	claim := func(k key, at float64, cause Cause) *Occurrence {
		var best *Occurrence
		for _, o := range reported[k] {
			if d := distance(o, at); d < 6 && (cause == "" || o.Cause == cause) && (best == nil || d < distance(best, at)) {
				best = o
			}
		}
		if best != nil {
			reported[k] = slices.DeleteFunc(reported[k], func(o *Occurrence) bool { return o == best })
		}
		return best
	}
	count := 0
	for _, os := range reported {
		count += len(os)
	}
	for _, e := range events {
		if e.Cause == "first-start" {
			continue // fail2ban's log says a plain Ban there
		}
		s.total++
		o := claim(key{e.Jail, e.ID, e.Kind}, e.T, "")
		if o == nil && legacy && e.Kind == "restore" {
			o = claim(key{e.Jail, e.ID, "ban"}, e.T, "")
		}
		got := Cause("-")
		if o != nil {
			got = o.Cause
		} else if e.Kind+" "+e.Cause == "restore restart-crash" && claim(key{e.Jail, e.ID, "ban"}, e.T, Reread) != nil {
			got = Crash // the re-read offence won the race against the database
		}
		zombie := got == Zombie && (strings.HasPrefix(name, "bantime-lowered") || strings.HasPrefix(name, "jail-renamed"))
		ok := slices.Contains(agreeing[e.Kind+" "+e.Cause], got) || legacy && o != nil || zombie
		if e.Kind == "unban" && (e.Cause == "manual" || e.Cause == "expiry") {
			s.unbans[e.Cause]++
			if slices.Contains(agreeing[e.Kind+" "+e.Cause], got) {
				s.unbansRight[e.Cause]++
			}
		}
		if ok {
			s.agree++
			continue
		}
		if e.Kind == "restore" {
			s.restoresWrong++
		}
		s.wrong = append(s.wrong, fmt.Sprintf("%s: %s %s was %s by %s at %.3f, reported %s", name, e.Jail, e.ID, e.Kind, e.Cause, e.T, got))
	}
	if legacy || strings.HasPrefix(name, "overalljails") {
		return // the one has no Restore Ban, the other prints restores as bans
	}
	s.said += count
	for k, os := range reported {
		if k.jail != "app-user" { // its action fails and leaves no trace
			s.extra += len(os)
		}
	}
}

func distance(o *Occurrence, at float64) float64 {
	return math.Abs(float64(o.Time.UnixMilli())/1000 - at)
}

// The verdicts on each recording by event and cause. The truth does not tell
// new from gap and re-read; the table testdata/verdicts.md does, and says of each
// verdict why it is right. -update writes the counts and keeps the reasons.
func TestVerdictsOfRecordings(t *testing.T) {
	const golden = "testdata/verdicts.md"
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	table := readVerdicts(t, string(text))
	dirs, err := filepath.Glob(recordings + "/*")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString(table.intro)
	for _, dir := range dirs {
		if name := filepath.Base(dir); name != "dst-fallback" && slices.Contains(unreadable, name) {
			continue
		}
		tr := readTruth(t, dir)
		for _, host := range slices.Sorted(maps.Keys(tr.Hosts)) {
			h := tr.Hosts[host]
			zone, err := time.LoadLocation(h.TZ)
			if err != nil {
				t.Fatal(err)
			}
			for _, files := range logsOf(h.Files) {
				e := NewEngine(Options{Events: true})
				feedWith(t, e, readLog(t, dir, host, files), zone)
				e.Finish(e.Newest())
				log := filepath.Base(dir) + " " + strings.Join(files, "+")
				table.write(t, &b, log, countVerdicts(e.Findings()))
			}
		}
	}
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		text = []byte(b.String())
	}
	if b.String() != string(text) && !t.Failed() {
		t.Errorf("%s is not in its own form, or has logs that are no more; -update writes it anew", golden)
	}
}

// countVerdicts counts causes by event, and the findings that are verdicts of
// their own.
func countVerdicts(fs []Finding) map[string]int {
	counts := map[string]int{}
	for _, f := range fs {
		switch {
		case f.Kind == FindingLost || f.Kind == FindingPrematureUnban || f.Kind == FindingReoffence || f.Kind == FindingGap:
			counts[string(f.Kind)]++
		case f.Event != nil && f.Event.Cause != "":
			counts[f.Event.Event+":"+string(f.Event.Cause)]++
		}
	}
	return counts
}

// verdicts is the table: of each log its story and, by verdict, the count and
// the reason.
type verdicts struct {
	intro   string
	stories map[string]string
	counts  map[string]map[string]int
	reasons map[string]map[string]string
}

const verdictsHead = "| verdict | count | why |\n| --- | --- | --- |\n"

func readVerdicts(t *testing.T, text string) verdicts {
	t.Helper()
	v := verdicts{stories: map[string]string{}, counts: map[string]map[string]int{}, reasons: map[string]map[string]string{}}
	var err error
	sections := strings.Split(text, "\n## ")
	v.intro = sections[0]
	for _, section := range sections[1:] {
		log, rest, _ := strings.Cut(section, "\n\n")
		story, rows, ok := strings.Cut(rest, "\n\n"+verdictsHead)
		if !ok {
			t.Fatalf("%s has no table", log)
		}
		v.stories[log], v.counts[log], v.reasons[log] = story, map[string]int{}, map[string]string{}
		for row := range strings.Lines(rows) {
			cells := strings.Split(strings.TrimSpace(row), "|")
			if len(cells) != 5 {
				t.Fatalf("%s: %q is no row", log, row)
			}
			verdict := strings.TrimSpace(cells[1])
			v.reasons[log][verdict] = strings.TrimSpace(cells[3])
			if v.counts[log][verdict], err = strconv.Atoi(strings.TrimSpace(cells[2])); err != nil {
				t.Fatalf("%s: %v", log, err)
			}
		}
	}
	return v
}

// write adds a log's section with its counts; each verdict needs a reason.
func (v verdicts) write(t *testing.T, b *strings.Builder, log string, counts map[string]int) {
	t.Helper()
	if v.stories[log] == "" {
		t.Errorf("%s has no story", log)
	}
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n%s", log, v.stories[log], verdictsHead)
	if !*update && !maps.Equal(counts, v.counts[log]) {
		t.Errorf("%s: verdicts are\n%v, the table says\n%v", log, counts, v.counts[log])
	}
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		why := v.reasons[log][k]
		if why == "" {
			t.Errorf("%s: no reason is given for %s", log, k)
		}
		fmt.Fprintf(b, "| %s | %d | %s |\n", k, counts[k], why)
	}
}

// eachRecording calls for each way in which a host's log was recorded.
func eachRecording(t *testing.T, each func(name, host string, files []string, zone *time.Location, dir string)) {
	t.Helper()
	dirs, err := filepath.Glob(recordings + "/*")
	if err != nil || len(dirs) < 40 {
		t.Fatal("recordings are missing", len(dirs), err)
	}
	for _, dir := range dirs {
		tr := readTruth(t, dir)
		for _, host := range slices.Sorted(maps.Keys(tr.Hosts)) {
			h := tr.Hosts[host]
			zone, err := time.LoadLocation(h.TZ)
			if err != nil {
				t.Fatal(err)
			}
			for _, files := range logsOf(h.Files) {
				each(filepath.Base(dir)+" "+host+" "+strings.Join(files, "+"), host, files, zone, dir)
			}
		}
	}
}
