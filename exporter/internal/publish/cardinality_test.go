package publish

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
)

// fleet is a view with everything that it may have.
func fleet(hosts, jails int) *View {
	v := &View{At: at("22:00:00.000"), CaughtUp: true, Sources: make([]SourceReport, 1)}
	for h := range hosts {
		host := correlate.HostReport{
			Host: fmt.Sprintf("host%05d", h), FirstLine: at("00:00:00.000"), LastLine: v.At, Running: correlate.Known(true), Started: at("00:00:00.000"), Version: "1.1.0",
			Restarts: map[string]uint64{"clean": 1},
		}
		for j := range jails {
			host.Jails = append(host.Jails, correlate.JailReport{
				Jail: fmt.Sprintf("jail%03d", j), FirstLine: host.FirstLine, LastLine: v.At, Running: correlate.Known(true),
				BanTime: correlate.Known(time.Hour), FindTime: correlate.Known(time.Hour), MaxRetry: correlate.Known(3), Counts: correlate.Counts{Failures: 1},
				GapSeconds: histogram(correlate.GapBounds, 2), Reoffence: histogram(correlate.ReoffenceBounds, 90),
			})
		}
		v.Sources[0].Report.Hosts = append(v.Sources[0].Report.Hosts, host)
	}
	for j := range jails {
		known := correlate.Known(.5)
		v.Jails = append(v.Jails, JailOutlook{Jail: fmt.Sprintf("jail%03d", j), Survival: [4]correlate.Maybe[float64]{known, known, known, known}, Suggested: correlate.Known(time.Hour)})
	}
	for k := range 50 {
		v.Offenders = append(v.Offenders, offender.Row{ID: fmt.Sprintf("192.0.2.%d", k), Scored: true, Score: 1, LastBan: v.At})
	}
	for n := range 20 {
		v.Networks = append(v.Networks, offender.Network{Network: fmt.Sprintf("10.0.%d.0/24", n)})
	}
	return v
}

// seriesIn counts series as a Prometheus does that reads text.
func seriesIn(families []*dto.MetricFamily) (all int, most int, name string) {
	for _, f := range families {
		n := len(f.GetMetric())
		if f.GetType() == dto.MetricType_HISTOGRAM {
			n = 0
			for _, m := range f.GetMetric() {
				n += len(m.GetHistogram().GetBucket()) + 3
			}
		}
		all += n
		if n > most {
			most, name = n, f.GetName()
		}
	}
	return all, most, name
}

// The table of docs/metrics.md is what is served.
func TestCardinality(t *testing.T) {
	text, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| hosts | jails on each | detail | series |\n")
	rows := 0
	for line := range strings.Lines(table) {
		cells := strings.FieldsFunc(strings.TrimSpace(line), func(r rune) bool { return r == '|' || r == ' ' })
		if len(cells) == 0 {
			break
		}
		if len(cells) != 4 || strings.HasPrefix(cells[0], "-") {
			continue
		}
		rows++
		hosts, _ := strconv.Atoi(cells[0])
		jails, _ := strconv.Atoi(cells[1])
		self := NewSelf(prometheus.NewRegistry())
		m := NewMetrics(MetricsOptions{MaxHosts: 5000, MaxJails: 200}, self)
		m.Set(fleet(hosts, jails))
		families, _ := m.Gather()
		got, _, _ := seriesIn(families)
		formula := 39*hosts*jails + 7*hosts
		if m.auto != cells[2] {
			t.Errorf("%s: detail %s", line, m.auto)
		}
		if cells[2] == DetailHost {
			formula = 43 * hosts
		}
		formula += 34*jails + 6*50 + 20 + 2
		if strconv.Itoa(got) != cells[3] || got != formula || got > 100_000 {
			t.Errorf("%d hosts with %d jails: %d series, %d by the formula; the page says %s", hosts, jails, got, formula, cells[3])
		}
		told := 0.0
		for i := range domain {
			told += testutil.ToFloat64(self.Series.WithLabelValues(domain[i].name))
		}
		if int(told) != got {
			t.Errorf("%d hosts: fail2ban_exporter_series tells of %v series, there are %d", hosts, told, got)
		}
	}
	if rows != 3 {
		t.Fatalf("%d rows of a table", rows)
	}
}

// A million ids, ten thousand hosts that a shipper names anew with each start, and
// jails that an attacker names: the series stay bounded, and nothing is lost of the
// sums.
func TestCardinalityUnderAttack(t *testing.T) {
	board := offender.NewBoard(offender.Options{})
	for i := range 1_000_000 {
		board.Ban(offender.BanFact{
			Place: offender.Place{Host: "web", Jail: "sshd"}, ID: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), At: at("00:00:00.000").Add(time.Duration(i) * time.Millisecond),
		})
	}
	ranking := board.Rank(at("12:00:00.000"), 50)
	for _, detail := range []string{"", DetailJail, DetailHost, DetailFleet} {
		const maxHosts, maxJails = 50, 20
		self := NewSelf(prometheus.NewRegistry())
		m := NewMetrics(MetricsOptions{Detail: detail, MaxHosts: maxHosts, MaxJails: maxJails, ForgetAfter: 7 * 24 * time.Hour}, self)
		for _, known := range []int{10, 1000, 10_000} { // more and more of them
			v := fleet(known, 1)
			v.Offenders, v.Tracked, v.Jails = ranking.Rows, ranking.Tracked, nil
			for h := range v.Sources[0].Report.Hosts {
				v.Sources[0].Report.Hosts[h].Jails[0].Jail = fmt.Sprintf("jail] Ban 192.0.2.%d\n", h)
			}
			m.Set(v)
			families, _ := m.Gather()
			wellFormed(t, families)
			all, most, name := seriesIn(families)
			if limit := 11 * (maxHosts + 1) * (maxJails + 1); most > limit {
				t.Errorf("detail %q, %d hosts: %s has %d series", detail, known, name, most)
			}
			if limit := 39*(maxHosts+1)*(maxJails+1) + 7*(maxHosts+1) + 34*(maxJails+1) + 6*50 + 20 + 2; all > limit {
				t.Errorf("detail %q, %d hosts: %d series", detail, known, all)
			}
			sum, gaps := 0.0, uint64(0)
			for _, f := range families {
				for _, one := range f.GetMetric() {
					switch f.GetName() {
					case "fail2ban_failures_total":
						sum += one.GetCounter().GetValue()
					case gapMetric:
						gaps += one.GetHistogram().GetSampleCount()
					}
				}
			}
			if int(sum) != known || int(gaps) != known {
				t.Errorf("detail %q, %d hosts: %v failures and %d gaps are left", detail, known, sum, gaps)
			}
		}
		if got := testutil.ToFloat64(self.SeriesLimited); got != 10_000-maxHosts+10_000-maxJails {
			t.Errorf("detail %q: %v were limited", detail, got)
		}
	}
}
