/**
 * ReconnectingWebSocket, the library of Django Real-Time Login Status Updates, used as its README shows. Runs in a
 * page, after the library.
 */

const socket = new ReconnectingWebSocket(`ws://${location.host}/v1/connect?user=alice&room=lobby`);

socket.onopen = () => socket.send("heartbeat");
socket.onmessage = ({ data }) => console.log({ message: JSON.parse(data) });
socket.onclose = ({ code }) => console.log({ close: code });
