package publish

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// evil are what attackers get into ids, and into hosts and jails where labels
// come from elsewhere.
var evil = append(slices.Clone(hostile[:len(hostile)-1]), // but for the empty one
	"+1+cmd", "-2+3", "=1+1", "@x", "\t=1", "\r=1", "\n=1", "a\r\nb", "a,b;\"c\"", "'", "<script>alert(1)</script>", "\x00", "\x1b]0;title\x07", "\x9b31m",
	"\u202eevil", "\xc3\x28", "\xed\xa0\x80", `{} 1`, `x"} 1`+"\nfail2ban_bans_total 99", "192.0.2.1\nfinding=ban id=198.51.100.1", "${jndi:x}", "%s%n", "h\u0000st", strings.Repeat("\xff", 5000), "🦀", "ip\u2028nl",
)

// evilRows are rows of all kinds that have ids, with one text wherever one fits.
func evilRows(s string) map[string]Row {
	at := at("10:00:00.000")
	restore, ban := restoreOf(s), &correlate.Ban{Host: s, Jail: s, ID: s, Started: at, EndedBy: correlate.EndedOpen, Detail: s}
	restore.Host, restore.Jail = s, s
	rows := map[string]Row{
		KindRestores:   RestoreRow(s, restore),
		KindBans:       BanRow(s, ban),
		KindEvents:     EventRow(s, &correlate.Occurrence{Time: at, Host: s, Jail: s, ID: s}),
		KindLost:       LostRow(s, &correlate.Lost{Host: s, Jail: s, ID: s}),
		KindReoffences: ReoffenceRow(s, &correlate.Reoffence{Host: s, Jail: s, ID: s}),
		KindRestarts:   RestartRow(s, &correlate.Restart{Host: s, Scope: s}),
		KindOffenders:  OffenderRow(s, &offender.Row{ID: s, Network: s, Country: s, ASN: s, BannedWhere: []offender.Place{{Source: s, Host: s, Jail: s}}}),
		KindNetworks:   NetworkRow(s, &offender.Network{Network: s}),
		KindCampaigns:  CampaignRow(s, &offender.Campaign{IDs: []string{s, s}}),
		KindJails:      JailRow(s, &Jail{Host: s, Report: correlate.JailReport{Jail: s}}),
		KindCoverage:   CoverageRow(s, &Coverage{Host: s, Timezone: s}),
	}
	for kind, r := range rows {
		r.Detail, r.Proof = s, []correlate.Line{{Time: at, Text: s}}
		rows[kind] = r
	}
	return rows
}

// harmless tells what in an output may do harm to whoever shows it: an escape
// sequence, a control character, something that is no UTF-8.
func harmless(out string) error {
	if !utf8.ValidString(out) {
		return fmt.Errorf("no UTF-8")
	}
	if i := strings.IndexFunc(out, func(r rune) bool { return r != '\n' && unprintable(r) && r != ' ' }); i >= 0 {
		return fmt.Errorf("%q at %d", []rune(out[i:])[0], i)
	}
	return nil
}

// outputs are all forms of rows, and what must hold of each.
var outputs = map[string]func(t *testing.T, table Table){
	"table": func(t *testing.T, table Table) {
		var b bytes.Buffer
		if err := WriteTable(&b, table); err != nil {
			t.Fatal(err)
		}
		if err := harmless(b.String()); err != nil {
			t.Error(err)
		}
		if n := strings.Count(b.String(), "\n"); n != 2+2 { // a header, a row, and a detail and a line beneath it
			t.Errorf("%d lines:\n%s", n, b.String())
		}
	},
	"csv": func(t *testing.T, table Table) {
		var b bytes.Buffer
		if err := WriteCSV(&b, table); err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(&b).ReadAll()
		if err != nil || len(rows) != 2 || len(rows[0]) != len(rows[1]) {
			t.Fatalf("%v, %d rows", err, len(rows))
		}
		for i, cell := range rows[1] {
			if cell != "" && strings.ContainsAny(cell[:1], "=+-@\t\r\n") || !utf8.ValidString(cell) {
				t.Errorf("%s: %.40q may be a formula", rows[0][i], cell)
			}
		}
	},
	"json": func(t *testing.T, table Table) {
		var b bytes.Buffer
		if err := WriteJSON(&b, table); err != nil {
			t.Fatal(err)
		}
		if strings.Count(b.String(), "\n") != 1 || !utf8.Valid(b.Bytes()) || bytes.ContainsFunc(bytes.TrimSpace(b.Bytes()), func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("not one line of printable text: %q", b.String())
		}
		if err := json.Unmarshal(b.Bytes(), &map[string]any{}); err != nil {
			t.Error(err)
		}
	},
	"json array": func(t *testing.T, table Table) {
		var b bytes.Buffer
		if err := WriteJSONArray(&b, table); err != nil {
			t.Fatal(err)
		}
		var all []map[string]any
		if err := json.Unmarshal(b.Bytes(), &all); err != nil || len(all) != 1 {
			t.Errorf("%v, %d objects", err, len(all))
		}
	},
}

// Whatever stands in an id, a host or a jail, it breaks no form of a row and
// does nothing to who reads it.
func TestEvilRows(t *testing.T) {
	for name, check := range outputs {
		t.Run(name, func(t *testing.T) {
			for _, s := range evil {
				for kind, row := range evilRows(s) {
					t.Run(fmt.Sprintf("%s %.20q", kind, s), func(t *testing.T) {
						check(t, Table{Kind: kind, NameSource: true, Explain: true, Rows: slices.Values([]Row{row})})
					})
				}
			}
		})
	}
}

// The same of what has forms of its own: metrics, findings in Loki, the summary.
func TestEvilElsewhere(t *testing.T) {
	for _, s := range evil {
		t.Run(fmt.Sprintf("%.20q", s), func(t *testing.T) {
			rows := []offender.Row{{ID: s, Network: s, Country: s, ASN: s, Scored: true, Score: 1, Bans: 1, LastBan: time.Unix(1, 0)}}
			v := &View{
				At: at("11:00:00.000"), CaughtUp: true, Offenders: rows, Networks: []offender.Network{{Network: s}},
				Sources: []SourceReport{{Name: s, Report: correlate.Report{Hosts: []correlate.HostReport{{Host: s, Version: s, Jails: []correlate.JailReport{{Jail: s}}}}}}},
			}
			reg := prometheus.NewPedanticRegistry()
			m, c := NewMetrics(MetricsOptions{NameSource: true}, nil), NewCompat(MetricsOptions{NameSource: true})
			reg.MustRegister(c)
			m.Set(v)
			c.Set(v)
			evilPage(t, Join(reg, m))

			var sum strings.Builder
			if err := WriteSummary(&sum, Summary{At: v.At, Sources: v.Sources, Offenders: rows}); err != nil {
				t.Fatal(err)
			}
			if err := harmless(sum.String()); err != nil {
				t.Errorf("summary: %v", err)
			}
			evilFindings(t, s, rows[0])
		})
	}
}

// evilPage checks a page of metrics: it can be read, and no series is forged.
func evilPage(t *testing.T, reg prometheus.Gatherer) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	wellFormed(t, families)
	var page bytes.Buffer
	enc := expfmt.NewEncoder(&page, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := harmless(page.String()); err != nil {
		t.Errorf("metrics: %v", err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	read, err := parser.TextToMetricFamilies(&page)
	if err != nil || len(read) != len(families) {
		t.Errorf("metrics: %v, %d of %d families", err, len(read), len(families))
	}
	for _, f := range families {
		if got := len(read[f.GetName()].GetMetric()); got != len(f.GetMetric()) {
			t.Errorf("%s: %d series, %d were made", f.GetName(), got, len(f.GetMetric()))
		}
	}
}

// evilFindings checks what is pushed: one line of logfmt each, valid labels,
// none of them unbounded.
func evilFindings(t *testing.T, s string, row offender.Row) {
	t.Helper()
	restore := restoreOf(s)
	restore.Host, restore.Jail = s, s
	f := correlate.Finding{Kind: correlate.FindingRestore, Time: restore.Time, Host: s, Jail: s, ID: s, Restore: restore}
	var rec recorder
	sink := NewLokiSink(&rec, LokiOptions{NameSource: true})
	sink.Publish(context.Background(), s, restore.Time, []correlate.Finding{f}, []offender.Finding{{At: restore.Time, Row: row}})
	if err := sink.round(context.Background()); err != nil || len(rec.pushes) != 2 {
		t.Fatalf("%v, %d pushes", err, len(rec.pushes))
	}
	for _, p := range rec.pushes {
		e := p[0].Entries[0]
		if err := harmless(e.Line); err != nil || strings.Contains(e.Line, "\n") {
			t.Errorf("line %.100q: %v", e.Line, err)
		}
		fields := map[string]int{}
		for _, x := range parseLogfmt(t, e.Line) {
			fields[x[0]]++
		}
		if fields["finding"] != 1 || fields["id"] != 1 {
			t.Errorf("%.100q forges a field", e.Line)
		}
		for name, v := range p[0].Labels {
			if !utf8.ValidString(v) || name == "ip" || name == "id" {
				t.Errorf("label %s=%.40q", name, v)
			}
		}
		for _, l := range e.Metadata {
			if !utf8.ValidString(l.Value) || len(l.Value) > maxMetadata {
				t.Errorf("metadata %s=%.40q", l.Name, l.Value)
			}
		}
	}
}
