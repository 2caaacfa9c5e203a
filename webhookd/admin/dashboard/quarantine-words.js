// Sentences that say why a body could not become an event.

const REASONS = {
  not_json: "The body is not JSON",
  not_object: "The body is not a JSON object",
  no_notification_id: "The notification id is missing",
  no_event_type: "The event type is missing",
  unstorable: "PostgreSQL cannot store it",
  too_old: "The event is too old",
  in_the_future: "The event's date is in the future",
};

export const REASON_CHOICES = Object.entries(REASONS);

export function reasonWords(code) {
  return REASONS[code] ?? code;
}
