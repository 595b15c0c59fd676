package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// A bad file changes nothing and says so; a good one takes effect, by request
// or by signal, and what did not change is not read again.
func TestReload(t *testing.T) {
	tenant, _ := pushNow(t, "multihost")
	file := config{tenant: tenant, push: true}.write(t)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := daemonOf(t, file)
	scrape := func() []lab.Sample {
		t.Helper()
		samples, err := lab.Scrape(t.Context(), s.URL+"/metrics")
		if err != nil {
			t.Fatal(err)
		}
		return samples
	}
	become := func(what string, right func([]lab.Sample) error) {
		t.Helper()
		poll(t, s, what, func(ctx context.Context) error {
			if _, err := lab.Get(ctx, s.URL+"/-/ready"); err != nil {
				return err
			}
			samples, err := lab.Scrape(ctx, s.URL+"/metrics")
			if err != nil {
				return err
			}
			return right(samples)
		})
	}
	const offenders, rebuilt, ok = "fail2ban_offender_bans", "fail2ban_exporter_state_rebuilt_timestamp_seconds", "fail2ban_exporter_config_last_reload_successful"
	count := func(samples []lab.Sample, name string) (n int) {
		for _, x := range samples {
			if x.Name == name {
				n++
			}
		}
		return n
	}
	become("is not ready", func(samples []lab.Sample) error {
		if n := count(samples, offenders); n < 5 {
			return fmt.Errorf("%d offenders", n)
		}
		return nil
	})
	before := scrape()

	write(string(text) + "nonsense: true\n")
	if code, body := post(t, s.URL+"/-/reload"); code != http.StatusInternalServerError || !strings.Contains(body, "nonsense") {
		t.Errorf("a bad file: status %d: %s", code, body)
	}
	after := scrape()
	if lab.Sum(after, ok) != 0 {
		t.Error("a bad file: the metric says all is well")
	}
	if err := differences(totals(after), totals(before)); err != nil {
		t.Errorf("a bad file: %v", err)
	}

	write(string(text) + "metrics: {top_offenders: 3}\n")
	s.Signal(syscall.SIGHUP)
	become("does not take the new file", func(samples []lab.Sample) error {
		if n := count(samples, offenders); n != 3 || lab.Sum(samples, ok) != 1 {
			return fmt.Errorf("%d offenders", n)
		}
		return nil
	})
	after = scrape()
	for _, name := range []string{"fail2ban_bans_total", "fail2ban_restored_bans_total", "fail2ban_exporter_lines_total", rebuilt} {
		if got, want := lab.Sum(after, name), lab.Sum(before, name); got != want {
			t.Errorf("%s is %v after a reload that touched no source, not %v", name, got, want)
		}
	}

	write(strings.Replace(string(text), `{job=\"fail2ban\"}`, `{job=\"fail2ban\", host=\"web-1\"}`, 1))
	if code, body := post(t, s.URL+"/-/reload"); code != http.StatusOK {
		t.Errorf("a good file: status %d: %s", code, body)
	}
	become("does not read the new query", func(samples []lab.Sample) error {
		hosts := lab.SumBy(samples, "fail2ban_bans_total", "host")
		if len(hosts) != 1 || hosts["web-1"] == 0 {
			return fmt.Errorf("hosts %v", hosts)
		}
		if lab.Sum(samples, rebuilt) <= lab.Sum(before, rebuilt) {
			return errors.New("nothing was read again")
		}
		return nil
	})
	if code, _ := get(t, s.URL+"/-/reload"); code != http.StatusMethodNotAllowed {
		t.Errorf("GET: status %d", code)
	}
}

func post(t *testing.T, url string) (code int, body string) { return request(t, http.MethodPost, url) }

func get(t *testing.T, url string) (code int, body string) { return request(t, http.MethodGet, url) }

func request(t *testing.T, method, url string) (code int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}
