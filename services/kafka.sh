#!/usr/bin/env bash
# A Kafka broker on this machine: one node, on loopback, its data in a folder.
#
#   kafka.sh start DIR [PORT]   start it (PORT is 9092 unless named) and wait until it answers
#   kafka.sh stop DIR           end it in good order; its data stay
#   kafka.sh kill DIR           end it as a crash does, for tests; its data stay
#
# Its controller listens on PORT+1, on loopback too. The first start downloads the broker (46 jars,
# 43 MB) into the folder that KAFKA_LIBS names, by default .services/kafka-libs in the checkout.
# Needs Java 17 or newer and Maven; works with the bash 3.2 that macOS has. Exit status: 0 done,
# 1 the broker or its folder is at fault, 2 usage, 69 what it needs is not here.
set -euo pipefail

fail() { echo "kafka.sh: $*" >&2; exit 1; }
lacks() { echo "kafka.sh: $*" >&2; exit 69; }
usage() { echo "usage: kafka.sh start DIR [PORT] | stop DIR | kill DIR" >&2; exit 2; }

# The process in DIR/pid, if it is still this folder's broker: numbers come again.
broker() {
    local pid command
    pid=$(cat "$dir/pid" 2>/dev/null) || return 1
    if [ -d /proc/self ]; then
        command=$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") || return 1
    else
        command=$(ps -ww -p "$pid" -o command=) || return 1
    fi
    case $command in *" kafka.Kafka $dir/server.properties"*) echo "$pid" ;; *) return 1 ;; esac
}

port_of_last_start() {
    sed -n 's/^listeners=PLAINTEXT:.*:\([0-9]*\),.*/\1/p' "$dir/server.properties"
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Ask for the versions of its API; the answer begins with a zero byte, of its length.
answers() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$1"
        printf '\0\0\0\12\0\22\0\0\0\0\0\1\377\377' >&3
        IFS= read -r -d '' -t 5 -n 1 <&3
    ) 2>/dev/null
}

require_java() {
    local version
    version=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p') || version=
    [ "${version:-0}" -ge 17 ] || lacks "a Kafka broker needs Java 17 or newer, and '$java' is" \
        "${version:+version }${version:-not there}. Install one (Debian and Ubuntu:" \
        "apt install openjdk-17-jre-headless; macOS: brew install openjdk) and have it in PATH," \
        "or name its folder: JAVA_HOME=…"
}

# Into a folder beside, then renamed: a download that was cut leaves nothing that looks whole.
download() {
    command -v mvn >/dev/null || lacks "the jars of Kafka are not in $libs yet, and Maven, which" \
        "downloads them, is not there. Install it (Debian and Ubuntu: apt install maven;" \
        "macOS: brew install maven) and start again."
    echo "Downloading Kafka into $libs (43 MB, once) …"
    mkdir -p "$libs"
    part=$(mktemp -d "$libs/part.XXXXXX")
    trap 'rm -rf "$part"' EXIT
    chmod 755 "$part"
    said=$(mvn --quiet --batch-mode --strict-checksums --file "$here/pom.xml" \
        dependency:copy-dependencies -DoutputDirectory="$part" -DincludeScope=runtime 2>&1) ||
        lacks "Maven could not download Kafka. With a connection, start again. It said: $said"
    # Of two downloads at once the second is put inside the first, and taken away again.
    mv "$part" "$jars"
    rm -rf "$jars/${part##*/}"
    trap - EXIT
}

start() {
    local pid
    if pid=$(broker); then
        port=$(port_of_last_start)
        answers "$port" || fail "the broker in $dir (process $pid) runs, but does not answer on" \
            "port $port; see $dir/kafka.log, or end it: kafka.sh stop $dir"
        echo "A Kafka broker answers already on 127.0.0.1:$port (its data: $dir)"
        return
    fi
    case $port in '' | *[!0-9]*) fail "PORT must be a number below 65535, not '$port'" ;; esac
    local taken
    for taken in "$port" "$((port + 1))"; do
        listens "$taken" && fail "port $taken is in use (a broker needs $port and" \
            "$((port + 1))); name another one"
    done
    require_java
    [ -d "$jars" ] || download
    # A broker that crashed may come back when the session of its former self has run out.
    cat >"$dir/server.properties" <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=$dir/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=1000
broker.session.timeout.ms=3000
END
    # Of a setting that is there twice the last one holds.
    [ ! -e "$dir/more.properties" ] || cat "$dir/more.properties" >>"$dir/server.properties"
    # An id that begins with - would be taken for an option.
    [ -e "$dir/data/meta.properties" ] || "$java" -cp "$jars/*" kafka.tools.StorageTool format \
        --config "$dir/server.properties" --cluster-id "$(
            head -c 16 /dev/urandom | base64 | tr '+/' '__' | cut -c1-22
        )" >"$dir/kafka.log" 2>&1 || fail "its folder cannot be prepared: $(cat "$dir/kafka.log")"
    # In a process group of its own, so that Ctrl-C in this terminal is not for it.
    set -m
    nohup "$java" -Xmx512m -Dlog4j2.level=WARN -cp "$jars/*" kafka.Kafka "$dir/server.properties" \
        >"$dir/kafka.log" 2>&1 </dev/null &
    set +m
    pid=$!
    echo "$pid" >"$dir/pid"
    disown
    SECONDS=0
    until answers "$port"; do
        kill -0 "$pid" 2>/dev/null || fail "the broker ended; it said: $(cat "$dir/kafka.log")"
        if [ "$SECONDS" -ge 120 ]; then
            kill -9 "$pid"
            fail "the broker did not answer within 120 s; it said: $(cat "$dir/kafka.log")"
        fi
        sleep 0.2
    done
    echo "A Kafka broker answers on 127.0.0.1:$port (its data: $dir)"
}

# Send a signal and wait for the end.
end() {
    local pid
    pid=$(broker) || { echo "No Kafka broker runs in $dir"; return; }
    kill "-$1" "$pid"
    port=$(port_of_last_start)
    SECONDS=0
    # Of a killed process the name goes first, the ports a moment later.
    while broker >/dev/null || listens "$port" || listens "$((port + 1))"; do
        [ "$SECONDS" -lt 60 ] || fail "the broker (process $pid) did not end within 60 s;" \
            "see $dir/kafka.log, or: kafka.sh kill $dir"
        sleep 0.1
    done
    rm -f "$dir/pid"
    echo "The Kafka broker in $dir has ended"
}

[ $# -ge 2 ] || usage
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$2"
dir=$(cd "$2" && pwd)
port=${3:-9092}
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
libs=${KAFKA_LIBS:-$(dirname "$here")/.services/kafka-libs}
jars=$libs/$(cksum <"$here/pom.xml" | cut -d ' ' -f 1) # other versions, other folder

case $1 in
start) start ;;
stop) end TERM ;;
kill) end KILL ;;
*) usage ;;
esac
