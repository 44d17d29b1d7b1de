/** A page of the Online Users Status Application over REST, with jQuery: sends a heartbeat, then requests the list. */

$.post("/heartbeat", { user_id: "alice" }, (status) => {
  console.log(status);
  $.getJSON("/online_users", (list) => console.log(list));
});
