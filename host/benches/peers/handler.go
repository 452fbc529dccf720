// The container service that Lodge replaces, at its smallest; and at /call one that asks another.
package main

import (
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "Hello, World!")
	})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	http.HandleFunc("/call", func(w http.ResponseWriter, r *http.Request) {
		times, _ := strconv.Atoi(r.Header.Get("x-times"))
		bytes := 0
		for ; times > 0; times-- {
			response, err := client.Get(r.Header.Get("x-to"))
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			body, _ := io.ReadAll(response.Body)
			response.Body.Close()
			bytes += len(body)
		}
		io.WriteString(w, strconv.Itoa(bytes))
	})
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
