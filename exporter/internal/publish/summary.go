package publish

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

// Summary is everything in one page, for a person.
type Summary struct {
	At        time.Time
	Sources   []SourceReport
	Offenders []offender.Row // best first; the first ten are shown
}

// hostSummary is one host's counters over all its jails, or the total.
type hostSummary struct {
	source, host       string
	counts             correlate.Counts
	restarts           [3]uint64 // in the order of restartKinds
	banned, unprotect  int
	gaps               []time.Duration
	firstLine, newLine time.Time
	jails              int
}

// restartKinds are the kinds of a server's restarts as tables and metrics list
// them (rule 19).
var restartKinds = []string{"clean", "crash", "unknown"}

func summarize(source string, h *correlate.HostReport, spans *Spans) hostSummary {
	s := hostSummary{source: source, host: h.Host, gaps: spans.hostGaps(h.Host), firstLine: h.FirstLine, newLine: h.LastLine, jails: len(h.Jails)}
	for i, kind := range restartKinds {
		s.restarts[i] = h.Restarts[kind]
	}
	for i := range h.Jails {
		j := &h.Jails[i]
		s.counts.Add(&j.Counts)
		s.banned += j.BannedNow
		s.unprotect += j.Unprotected
	}
	return s
}

func (s *hostSummary) add(o *hostSummary) {
	s.counts.Add(&o.counts)
	for i, n := range o.restarts {
		s.restarts[i] += n
	}
	s.banned += o.banned
	s.unprotect += o.unprotect
	s.gaps = append(s.gaps, o.gaps...)
	s.jails += o.jails
	if s.firstLine.IsZero() || !o.firstLine.IsZero() && o.firstLine.Before(s.firstLine) {
		s.firstLine = o.firstLine
	}
	if o.newLine.After(s.newLine) {
		s.newLine = o.newLine
	}
}

func (s *hostSummary) allRestarts() (n uint64) {
	for _, v := range s.restarts {
		n += v
	}
	return n
}

// hosts gives each host's summary and the total.
func (s Summary) hosts() (hosts []hostSummary, total hostSummary) {
	total.host = "total"
	for i := range s.Sources {
		src := &s.Sources[i]
		for k := range src.Report.Hosts {
			h := summarize(src.Name, &src.Report.Hosts[k], src.Spans)
			hosts = append(hosts, h)
			total.add(&h)
		}
	}
	return hosts, total
}

var summaryColumns = slices.Concat(
	[]column[hostSummary]{
		{"host", func(s *hostSummary) Value { return textValue(s.host) }},
		{"log_bans", func(s *hostSummary) Value { return intValue(s.counts.LogBans()) }},
		{"bans", func(s *hostSummary) Value { return intValue(s.counts.TrueBans()) }},
	},
	summaryCounts("bans_", correlate.BanOrigins, func(s *hostSummary) []uint64 { return s.counts.Bans[:] }),
	[]column[hostSummary]{
		{"restored_bans", func(s *hostSummary) Value { return intValue(s.counts.RestoredBans()) }},
	},
	summaryCounts("restored_", correlate.RestoreCauses, func(s *hostSummary) []uint64 { return s.counts.Restored[:] }),
	[]column[hostSummary]{
		{"reread_bans", func(s *hostSummary) Value { return intValue(s.counts.Reread) }},
		{"restarts", func(s *hostSummary) Value { return intValue(s.allRestarts()) }},
	},
	summaryCounts("restarts_", restartKinds, func(s *hostSummary) []uint64 { return s.restarts[:] }),
	summaryCounts("unbans_", correlate.UnbanCauses, func(s *hostSummary) []uint64 { return s.counts.Unbans[:] }),
	[]column[hostSummary]{
		{"failures", func(s *hostSummary) Value { return intValue(s.counts.Failures) }},
		{"gap_failures", func(s *hostSummary) Value { return intValue(s.counts.GapFailures) }},
		{"median_gap_seconds", func(s *hostSummary) Value { return maybe(median(s.gaps), secondsValue) }},
		{"longest_gap_seconds", func(s *hostSummary) Value { return maybe(longest(s.gaps), secondsValue) }},
		{"banned_now", func(s *hostSummary) Value { return intValue(s.banned) }},
		{"unprotected_now", func(s *hostSummary) Value { return intValue(s.unprotect) }},
		{"lost_bans", func(s *hostSummary) Value { return intValue(s.counts.Lost) }},
		{"reoffences", func(s *hostSummary) Value { return intValue(s.counts.Reoffences) }},
	},
)

// summaryCounts makes one column of each value of a closed set.
func summaryCounts[S ~string](prefix string, set []S, counts func(*hostSummary) []uint64) []column[hostSummary] {
	out := make([]column[hostSummary], len(set))
	for i, name := range set {
		out[i] = column[hostSummary]{prefix + string(name), func(s *hostSummary) Value { return intValue(counts(s)[i]) }}
	}
	return out
}

// SummaryRows makes the rows of the kind `summary`: one for each host, and at
// the end the `total`.
func SummaryRows(s Summary) []Row {
	hosts, total := s.hosts()
	rows := make([]Row, 0, len(hosts)+1)
	for i := range hosts {
		rows = append(rows, makeRow(hosts[i].source, summaryColumns, &hosts[i]))
	}
	return append(rows, makeRow("", summaryColumns, &total))
}

const (
	topOffenders = 10
	maxHostName  = 32
	maxSummaryID = 39 // an IPv6 address
)

// WriteSummary writes the summary as text for a person, 100 columns wide at most.
// Its first line says the one thing: how many of the log's bans were real.
func WriteSummary(w io.Writer, s Summary) error {
	hosts, total := s.hosts()
	var b strings.Builder
	b.WriteString(verdict(&total))
	b.WriteString(extent(s.At, len(hosts), &total))
	lines := hosts
	if len(hosts) > 1 {
		lines = append(lines, total)
	}
	named := len(s.Sources) > 1
	for _, section := range summarySections {
		section.write(&b, lines, named)
	}
	writeOffenders(&b, s.Offenders)
	_, err := io.WriteString(w, b.String())
	return err
}

func verdict(t *hostSummary) string {
	all, bans, restored, reread := t.counts.LogBans(), t.counts.TrueBans(), t.counts.RestoredBans(), t.counts.Reread
	var b strings.Builder
	fmt.Fprintf(&b, "The log shows %s. %s real; %s %s after %s; %s.\n",
		number(all, "ban"), were(bans), were(restored), noun(restored, "a restore", "restores"), number(t.allRestarts(), "restart"), number(reread, "re-read"))
	if settled := bans + restored + reread; settled < all {
		fmt.Fprintf(&b, "%s not settled yet: the log does not reach far enough to tell.\n", were(all-settled))
	}
	return b.String()
}

func noun(n uint64, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func number(n uint64, what string) string { return fmt.Sprint(n, " ", noun(n, what, what+"s")) }

func were(n uint64) string { return fmt.Sprint(n, " ", noun(n, "was", "were")) }

func extent(at time.Time, hosts int, t *hostSummary) string {
	if hosts == 0 {
		return "No host has logged anything.\n"
	}
	const form = "2006-01-02 15:04:05 MST"
	line := fmt.Sprintf("%s with %s. The log is from %s to %s.\n", number(uint64(hosts), "host"), number(uint64(t.jails), "jail"),
		t.firstLine.UTC().Format(form), t.newLine.UTC().Format(form))
	if !at.IsZero() && at.Sub(t.newLine) >= time.Second {
		line += fmt.Sprintf("All is told as of %s.\n", at.UTC().Format(form))
	}
	return line
}

// summarySection is one small table with a line for each host.
type summarySection struct {
	title  string
	header []string
	cells  func(*hostSummary) []Value
}

var summarySections = []summarySection{
	{"Bans", []string{"in log", "real", "restored", "re-read", "lost", "banned now", "failures"}, func(s *hostSummary) []Value {
		c := &s.counts
		return counted(c.LogBans(), c.TrueBans(), c.RestoredBans(), c.Reread, c.Lost, uint64(s.banned), c.Failures)
	}},
	{"Real bans by origin", spaced(correlate.BanOrigins), func(s *hostSummary) []Value { return counted(s.counts.Bans[:]...) }},
	{"Restored bans by cause", spaced(correlate.RestoreCauses), func(s *hostSummary) []Value { return counted(s.counts.Restored[:]...) }},
	{"Restarts of the server", append([]string{"all"}, restartKinds...), func(s *hostSummary) []Value {
		return counted(append([]uint64{s.allRestarts()}, s.restarts[:]...)...)
	}},
	{"Unbans by cause", spaced(correlate.UnbanCauses), func(s *hostSummary) []Value { return counted(s.counts.Unbans[:]...) }},
	{"Time without a logged ban", []string{"gaps", "median s", "longest s", "failures in them", "unprotected now"}, func(s *hostSummary) []Value {
		return []Value{
			intValue(len(s.gaps)), maybe(median(s.gaps), secondsValue), maybe(longest(s.gaps), secondsValue),
			intValue(s.counts.GapFailures), intValue(s.unprotect),
		}
	}},
}

func spaced(set []correlate.Cause) []string {
	out := make([]string, len(set))
	for i, c := range set {
		out[i] = strings.ReplaceAll(string(c), "_", " ")
	}
	return out
}

func counted(ns ...uint64) []Value {
	out := make([]Value, len(ns))
	for i, n := range ns {
		out[i] = intValue(n)
	}
	return out
}

func (t summarySection) write(b *strings.Builder, lines []hostSummary, named bool) {
	if len(lines) == 0 {
		return
	}
	g := grid{header: append([]string{t.title}, t.header...)}
	for i := range t.header {
		g.rightAlign(i + 1)
	}
	for i := range lines {
		h := &lines[i]
		name := h.host
		if named && h.source != "" {
			name = h.source + "/" + name
		}
		cells := []string{cut(textValue(name).cell(), maxHostName)}
		for _, v := range t.cells(h) {
			cells = append(cells, v.cell())
		}
		g.rows = append(g.rows, cells)
	}
	b.WriteByte('\n')
	_ = g.write(b) // a Builder takes everything
}

func writeOffenders(b *strings.Builder, rows []offender.Row) {
	if len(rows) == 0 {
		return
	}
	g := grid{header: []string{"", "Top offenders", "real bans", "restores", "failures", "hosts", "jails", "banned now"}, right: []int{0, 2, 3, 4, 5, 6}}
	for _, o := range rows[:min(topOffenders, len(rows))] {
		banned := "no"
		if o.BannedNow {
			banned = "yes"
		}
		cells := []string{fmt.Sprint(o.Rank), cut(textValue(o.ID).cell(), maxSummaryID)}
		for _, n := range []int{o.Bans, o.Restores, o.Failures, o.Hosts, o.Jails} {
			cells = append(cells, fmt.Sprint(n))
		}
		g.rows = append(g.rows, append(cells, banned))
	}
	b.WriteByte('\n')
	_ = g.write(b)
}
