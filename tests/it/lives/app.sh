# The application of the crowd of lives: sh app.sh WHAT DOMAIN [VOLUME SOURCE OP DEVICE].
#
# A disk begins with one line, `history|half|`: the words of all that was ever written, oldest first, and the life whose
# migration is half done (- for none). LIFE, MIGRATION and SERVER say who this is and what it does. What it finds and
# does is noted in the ledger, one event a line: a write is noted before and after it is done.
what=$1 domain=$2
here="$EC2FLEETD_ROOT/app-$domain"
echo $$ >> "$EC2FLEETD_ROOT/commands"

# What a power cut was to end, and what it missed, does nothing any more.
alive() { [ ! -e "$EC2FLEETD_ROOT/over-$LIFE" ] || exit 9; }

note() {
	alive
	echo "$@" >> "$LAB/ledger"
}

load() {
	line=$(head -c 4000 "$dev" 2>/dev/null | tr -d '\000') || line=
	line=${line%%
*}
	history=${line%%|*}
	half=${line#*|}
	half=${half%%|*}
	[ -n "$half" ] || half=-
}

# In one write of this very process: who kills it knows that nothing is written any more.
store() { alive; [ -e "$dev" ] && printf '%s|%s|\n' "$1" "$2" 1<> "$dev"; }

append() {
	word=$LIFE.$1
	note "intent $LIFE $domain $vol $word"
	if store "$history $word" - && [ -e "$dev" ]; then
		history="$history $word"
		note "done $LIFE $domain $vol $history"
	else
		note "gone $LIFE $domain $vol"
		exit 9
	fi
}

stop_server() {
	[ -e "$here.server" ] || return 0
	read -r pid < "$here.server"
	kill -9 "$pid" 2>/dev/null
	while kill -0 "$pid" 2>/dev/null && [ "$(cut -d' ' -f3 "/proc/$pid/stat" 2>/dev/null)" != Z ]; do sleep 0.01; done
	rm -f "$here.server"
}

case $what in
volume)
	vol=$3 source=$4 op=$5 dev=$6
	if [ ! -e "$dev" ]; then
		note "gone $LIFE $domain $vol"
		exit 9
	fi
	# A server that still runs here is the one that its successor's `systemctl start` would find.
	stop_server
	load
	note "found $LIFE $domain $vol $source $op $half $history"
	[ -n "$history" ] || history="root-$LIFE-$domain"
	note "half $LIFE $domain $vol"
	store "$history" "$LIFE"
	case $MIGRATION in
	fails) exit 7 ;;
	kills)
		kill -9 $PPID
		exit 7
		;;
	hangs) sleep 20 ;;
	slow) sleep 0.4 ;;
	esac
	store "$history" - || exit 9
	note "whole $LIFE $domain $vol"
	echo "$vol $dev" > "$here"
	;;
started)
	read -r vol dev < "$here"
	load
	note "start $LIFE $domain $vol $half $history"
	case $SERVER in
	fails) exit 7 ;;
	kills-first)
		kill -9 $PPID
		exit 7
		;;
	esac
	append 0
	: > "$LAB/up-$LIFE-$domain"
	: > "$LAB/up-$LIFE"
	if [ "$SERVER" = kills-then ]; then
		kill -9 $PPID
		exit 0
	fi
	(
		n=0
		while [ "$n" -lt "$SERVER" ]; do
			sleep 0.05
			n=$((n + 1))
			[ -e "$LAB/ledger" ] || exit 0
			append "$n"
		done
	) < /dev/null > /dev/null 2>&1 &
	echo $! > "$here.server"
	echo $! >> "$EC2FLEETD_ROOT/servers"
	;;
stop)
	# Only where the server was started: it saves as it stops.
	[ -e "$LAB/up-$LIFE-$domain" ] && [ -e "$here" ] || exit 0
	stop_server
	read -r vol dev < "$here"
	load
	append save
	rm -f "$here"
	;;
failed)
	# What was started is stopped, as by a unit that is bound to the daemon's.
	stop_server
	;;
esac
