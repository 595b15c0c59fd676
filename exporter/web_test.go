package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/crypto/bcrypt"
)

// served is the program's web server, of a daemon that has read nothing yet.
type served struct {
	addr   string
	client *http.Client
}

func serveWith(t *testing.T, w webFlags) *served {
	t.Helper()
	w.telemetryPath = "/metrics"
	if w.readTimeout == 0 {
		w.readTimeout = time.Minute
	}
	if w.maxConnections == 0 {
		w.maxConnections = 100
	}
	r := &runCommand{common: &common{configFile: filepath.Join(t.TempDir(), "config.yaml")}, web: w}
	if err := os.WriteFile(r.common.configFile, []byte("sources: [{}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := loadConfig(r.common)
	if err != nil {
		t.Fatal(err)
	}
	v, err := r.supervise(nil, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := newServer(v, &r.web)
	server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	ended := make(chan error, 1)
	go func() { ended <- v.serve(l, server) }()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		v.close()
	})
	return &served{l.Addr().String(), &http.Client{Transport: transport, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}}
}

// secured writes a web configuration with TLS and one user.
func secured(t *testing.T) (file string) {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		"key.pem":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		"web.yaml": fmt.Appendf(nil, "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\nbasic_auth_users: {prometheus: '%s'}\n", hash),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "web.yaml")
}

// ask sends a request; user is a name and a password, or empty.
func (s *served) ask(t *testing.T, method, url, user string) (status int, body string, header http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if name, password, ok := strings.Cut(user, ":"); ok {
		req.SetBasicAuth(name, password)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text), resp.Header
}

// With TLS and a password on, everything asks for it, but for the probes, which
// are told yes or no and nothing else.
func TestAuthentication(t *testing.T) {
	s := serveWith(t, webFlags{configFile: secured(t), pprof: true})
	url := "https://" + s.addr
	for _, path := range []string{"/", "/metrics", "/api/v1/offenders", "/api/v1/restores", "/api/v1/blocklist", "/debug/pprof/", "/debug/pprof/heap", "/nothing"} {
		for _, user := range []string{"", "prometheus:wrong", "prometheus:", "nobody:right", ":"} {
			if status, body, _ := s.ask(t, http.MethodGet, url+path, user); status != http.StatusUnauthorized || strings.TrimSpace(body) != "Unauthorized" {
				t.Errorf("%s as %q: status %d: %s", path, user, status, body)
			}
		}
	}
	for _, path := range []string{"/-/reload", "/-/healthy", "/-/ready"} {
		if status, _, _ := s.ask(t, http.MethodPost, url+path, ""); status != http.StatusUnauthorized {
			t.Errorf("POST %s: status %d", path, status)
		}
	}
	for _, c := range []struct {
		path, user string
		status     int
		body       string
	}{
		{"/-/healthy", "", http.StatusOK, "OK"},
		{"/-/ready", "", http.StatusServiceUnavailable, "not ready"},
		{"/-/ready", "prometheus:wrong", http.StatusUnauthorized, "Unauthorized"},
		{"/-/ready", "prometheus:right", http.StatusServiceUnavailable, "not ready: source loki: the past is being read, up to 0001-01-01T00:00:00Z so far"},
		{"/-/healthy", "prometheus:right", http.StatusOK, "OK"},
		{"/-/healthy/", "", http.StatusUnauthorized, "Unauthorized"},
	} {
		if status, body, _ := s.ask(t, http.MethodGet, url+c.path, c.user); status != c.status || strings.TrimSpace(body) != c.body {
			t.Errorf("%s as %q: status %d: %s", c.path, c.user, status, body)
		}
	}
	if status, body, _ := s.ask(t, http.MethodGet, url+"/metrics", "prometheus:right"); status != http.StatusOK || !strings.Contains(body, "fail2ban_exporter_catching_up 1") {
		t.Errorf("the right password: status %d", status)
	}
	if status, _, _ := s.ask(t, http.MethodGet, "http://"+s.addr+"/-/healthy", ""); status != http.StatusBadRequest {
		t.Errorf("HTTP where TLS is spoken: status %d", status)
	}
	c, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	if err == nil {
		_ = c.Close()
		t.Error("TLS 1.1 is spoken")
	}
	if c := call(t, "", "check", "--health", "http://"+s.addr, "--web.config.file", secured(t)); c.code != exitDone {
		t.Errorf("check --health: %+v", c)
	}
}

// Without a password probes say why.
func TestProbesWithoutPassword(t *testing.T) {
	s := serveWith(t, webFlags{})
	if _, body, _ := s.ask(t, http.MethodGet, "http://"+s.addr+"/-/ready", ""); !strings.Contains(body, "the past is being read") {
		t.Error(body)
	}
}

// A client that sends its request a byte an age is cut off, and meanwhile
// others are served; as many as fill all connections only for so long.
func TestSlowClients(t *testing.T) {
	s := serveWith(t, webFlags{readTimeout: 300 * time.Millisecond, maxConnections: 3})
	slow := func() net.Conn {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "); err != nil {
			t.Fatal(err)
		}
		return c
	}
	one := slow()
	if status, _, _ := s.ask(t, http.MethodGet, "http://"+s.addr+"/-/healthy", ""); status != http.StatusOK {
		t.Errorf("status %d beside a slow client", status)
	}
	for range 3 {
		slow()
	}
	if status, _, _ := s.ask(t, http.MethodGet, "http://"+s.addr+"/-/healthy", ""); status != http.StatusOK {
		t.Errorf("status %d behind slow clients", status)
	}
	if err := one.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(one); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a slow client is waited for")
	}
}

// Giant headers, giant paths and bodies nobody asked for end early.
func TestGiantRequests(t *testing.T) {
	s := serveWith(t, webFlags{})
	giant := strings.Repeat("x", 1<<20)
	for what, request := range map[string]string{
		"header": "GET / HTTP/1.1\r\nHost: localhost\r\nX-Giant: " + giant + "\r\n\r\n",
		"path":   "GET /" + giant + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"query":  "GET /api/v1/offenders?host=" + giant + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.WriteString(c, request) }() // it may be cut off in the midst
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil && resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%s: status %d", what, resp.StatusCode)
		}
		if err == nil {
			_ = resp.Body.Close()
		}
		_ = c.Close()
	}
	if status, _, _ := s.ask(t, http.MethodGet, "http://"+s.addr+"/-/healthy", ""); status != http.StatusOK {
		t.Errorf("status %d afterwards", status)
	}
}

// No way of writing a path leads to a file, to another server, or around what
// a path asks for.
func TestPathTricks(t *testing.T) {
	s := serveWith(t, webFlags{})
	for _, path := range []string{
		"/../../../etc/passwd", "/..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/metrics/../../etc/passwd", "/./etc/passwd",
		"/metrics%00", "/metrics/", "/metrics%2f", "/METRICS", "/api/v1/", "/api/v1/offenders/", "/api/v1/../../debug/pprof/heap", "/debug/pprof/", "/debug/pprof/heap",
		"//evil.example.org", "//evil.example.org/%2e%2e", "/\\evil.example.org", "/-/reload", "/-/quit", "/%", "*", "http://evil.example.org/", "/;/metrics",
	} {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		_ = c.Close()
		landing := resp.StatusCode == http.StatusOK && strings.Contains(string(body), "<h1>fail2ban-loki-exporter</h1>")
		switch to := resp.Header.Get("Location"); {
		case strings.HasPrefix(to, "//"), strings.Contains(to, "://"), strings.Contains(to, "\\"):
			t.Errorf("%s leads to %s", path, to)
		case resp.StatusCode < 300 && !landing, strings.Contains(string(body), "root:"):
			t.Errorf("%s: status %d: %.100s", path, resp.StatusCode, body)
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodTrace, "SEARCH"} {
		for _, path := range []string{"/", "/metrics", "/api/v1/offenders", "/api/v1/blocklist", "/-/healthy"} {
			if status, _, _ := s.ask(t, method, "http://"+s.addr+path, ""); status != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: status %d", method, path, status)
			}
		}
	}
}

// What attackers would like to see in a page, in metrics or in JSON is shown,
// and does nothing there.
func TestHostileIDsAreHarmless(t *testing.T) {
	ids := []string{"</td><script>alert(1)</script>", `"onload="x`, "\x1b[31mred", "a\\nb", "=cmd|calc", "\xff\xfe", "192.0.2.1"}
	d := caughtUp(t, map[string]string{"web-1": hostile(ids...)}, "")
	page := asked(t, d, "/")
	for _, bad := range []string{"<script>", `"onload`, "\x1b", "\xff"} {
		if strings.Contains(page.Body.String(), bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	for _, shown := range []string{"&lt;/td&gt;&lt;script&gt;", "&#34;onload=", `\x1b[31mred`, "192.0.2.1", "caught up"} {
		if !strings.Contains(page.Body.String(), shown) {
			t.Errorf("the page does not hold %q: %s", shown, page.Body)
		}
	}
	if policy := page.Header().Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") {
		t.Errorf("policy: %q", policy)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(asked(t, d, "/metrics").Body)
	if err != nil || len(families["fail2ban_offender_score"].GetMetric()) != len(ids) {
		t.Errorf("%d ids in the metrics: %v", len(families["fail2ban_offender_score"].GetMetric()), err)
	}
	var rows []map[string]any
	if err := json.Unmarshal(asked(t, d, apiPath+"offenders").Body.Bytes(), &rows); err != nil || len(rows) != len(ids) {
		t.Errorf("%d ids in the API: %v", len(rows), err)
	}
	if list := asked(t, d, apiPath+"blocklist").Body.String(); list != "192.0.2.1\n" {
		t.Errorf("the block list: %q", list)
	}
}
