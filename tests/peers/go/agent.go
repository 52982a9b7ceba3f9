package main

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// runAgent dials the proxy and serves a folder until the session ends.
func runAgent(flags *flag.FlagSet, windows *windowOptions, args []string) error {
	proxy := flags.String("proxy", "", "address of the proxy's tunnel port")
	root := flags.String("root", "", "folder to serve")
	if err := flags.Parse(args); err != nil {
		return err
	}
	// An old, anonymous peer verifies nobody and offers no protocol.
	conn, err := tls.Dial("tcp", *proxy, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return err
	}
	request, err := http.NewRequest("PUT", "https://localhost:1444/", strings.NewReader("Hello from C"))
	if err != nil {
		return err
	}
	if err := request.Write(conn); err != nil {
		return err
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != 200 || string(body) != "Hello from P" {
		return fmt.Errorf("refused: %s", response.Status)
	}
	session, err := newSession(conn, reader, *windows)
	if err != nil {
		return err
	}
	session.accept = func(stream *stream) {
		defer session.forget(stream)
		if err := serve(stream, *root); err != nil {
			// A visitor who leaves resets his stream: that is no fault.
			printLine(fields{"event": "aborted", "why": err.Error()})
		}
	}
	printLine(fields{"event": "connected"})
	check(session.run())
	return nil
}

func serve(stream *stream, root string) error {
	method, target := stream.headers.Get(":method"), stream.headers[":path"]
	if len(target) != 1 || method == "" {
		return errors.New("request without :method or :path")
	}
	printLine(fields{"event": "request", "method": method, "path": target[0], "headers": stream.headers})
	if method == "PUT" || method == "POST" {
		return serveUpload(stream)
	}
	raw := strings.SplitN(target[0], "?", 2)[0]
	name, err := url.PathUnescape(raw)
	if err != nil {
		return reply(stream, method, 400, nil, "bad path\n")
	}
	file, err := os.Open(filepath.Join(root, path.Clean("/"+name)))
	if err != nil {
		return reply(stream, method, 404, nil, "not found\n")
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		names, err := file.Readdirnames(-1)
		if err != nil {
			return err
		}
		cookies := http.Header{"set-cookie": {"peer=go", "role=agent"}}
		return reply(stream, method, 200, cookies, strings.Join(names, "\n")+"\n")
	}
	return serveFile(stream, method, file, info)
}

func serveFile(stream *stream, method string, file *os.File, info os.FileInfo) error {
	first, size, status := int64(0), info.Size(), 200
	headers := http.Header{
		"content-type":  {"application/octet-stream"},
		"last-modified": {info.ModTime().UTC().Format(http.TimeFormat)},
		"accept-ranges": {"bytes"},
	}
	if bounds, ok := parseRange(stream.headers.Get("range")); ok && method == "GET" {
		if bounds[1] < 0 || bounds[1] >= size {
			bounds[1] = size - 1
		}
		if bounds[0] > bounds[1] {
			headers.Set("content-range", fmt.Sprintf("bytes */%d", size))
			return reply(stream, method, 416, headers, "")
		}
		headers["content-range"] = []string{fmt.Sprintf("bytes %d-%d/%d", bounds[0], bounds[1], size)}
		first, size, status = bounds[0], bounds[1]-bounds[0]+1, 206
	}
	if _, err := file.Seek(first, io.SeekStart); err != nil {
		return err
	}
	setHead(headers, status, size)
	stream.respond(headers, method == "HEAD" || size == 0)
	if method == "HEAD" || size == 0 {
		return nil
	}
	if _, err := io.CopyN(stream, file, size); err != nil {
		return err
	}
	return stream.finish()
}

// parseRange reads "bytes=A-B"; an open end is -1.
func parseRange(text string) (bounds [2]int64, ok bool) {
	ends := strings.SplitN(strings.TrimPrefix(text, "bytes="), "-", 2)
	if !strings.HasPrefix(text, "bytes=") || len(ends) != 2 {
		return bounds, false
	}
	bounds[1] = -1
	for i, end := range ends {
		if end == "" && i == 1 {
			continue
		}
		value, err := strconv.ParseInt(end, 10, 64)
		if err != nil {
			return bounds, false
		}
		bounds[i] = value
	}
	return bounds, true
}

func serveUpload(stream *stream) error {
	hash := sha256.New()
	size, err := io.Copy(hash, stream)
	if err != nil {
		return err
	}
	body, err := json.Marshal(fields{"length": size, "sha256": hex.EncodeToString(hash.Sum(nil))})
	if err != nil {
		return err
	}
	headers := http.Header{"content-type": {"application/json"}}
	return reply(stream, "PUT", 201, headers, string(body))
}

func setHead(headers http.Header, status int, size int64) {
	headers[":status"] = []string{fmt.Sprintf("%d %s", status, http.StatusText(status))}
	headers[":version"] = []string{"HTTP/1.1"}
	headers["content-length"] = []string{strconv.FormatInt(size, 10)}
}

func reply(stream *stream, method string, status int, headers http.Header, body string) error {
	if headers == nil {
		headers = http.Header{}
	}
	setHead(headers, status, int64(len(body)))
	bare := method == "HEAD" || body == ""
	stream.respond(headers, bare)
	if bare {
		return nil
	}
	if _, err := io.WriteString(stream, body); err != nil {
		return err
	}
	return stream.finish()
}
